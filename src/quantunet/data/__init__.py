"""Images and masks: readers, splits by case, normalisation, manifest. Nothing here imports torch."""

from quantunet.data.agree import in_plane_of
from quantunet.data.channels import with_channels
from quantunet.data.config import DataConfig, NormalizationConfig, SplitConfig
from quantunet.data.describe import describe
from quantunet.data.examples_picture import write_examples_picture
from quantunet.data.in_plane import InPlane, restore_mask
from quantunet.data.manifest import check_no_leak, manifest
from quantunet.data.neighbours import with_neighbours
from quantunet.data.normalize import normalize, pad_to_multiple, resolve, unpad
from quantunet.data.phantom import phantom_dataset, write_phantom
from quantunet.data.read import read_dataset, read_image
from quantunet.data.sample import PARTS, Dataset, Part, Sample
from quantunet.data.split import Split, part_samples, split_cases, write_split
from quantunet.data.write import write_masks

__all__ = [
    "PARTS",
    "DataConfig",
    "Dataset",
    "InPlane",
    "NormalizationConfig",
    "Part",
    "Sample",
    "Split",
    "SplitConfig",
    "check_no_leak",
    "describe",
    "in_plane_of",
    "manifest",
    "normalize",
    "pad_to_multiple",
    "part_samples",
    "phantom_dataset",
    "read_dataset",
    "read_image",
    "resolve",
    "restore_mask",
    "split_cases",
    "unpad",
    "with_channels",
    "with_neighbours",
    "write_examples_picture",
    "write_masks",
    "write_phantom",
    "write_split",
]
