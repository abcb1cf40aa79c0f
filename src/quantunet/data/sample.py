"""The two things every reader delivers: samples (one 2-D image with its mask) and the dataset that holds them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from quantunet.data.in_plane import InPlane, Placement

Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class Sample:
    """One 2-D image, raw intensities, and its mask of class indices.

    Attributes:
        image: float32 (c, h, w), the file's own unit.
        mask: uint8 (h, w), 0 = background, k = the dataset's ``class_names[k]``; None when unknown (prediction).
        case_id: volume, picture, or a patient's pictures: what metrics are measured on, never cut in two by a split.
        name: unique in its dataset, such as "case/slice_07".
        spacing_mm: (row, column) of a picture, (slice, row, column) of a volume's slice; None when not recorded.
        path: the file the image came from; None for the phantom.
        index: page or slice in that file, None when the file holds one picture.
        group_id: the patient, whose cases stay in one part of the split; None: the case itself.
        placement: where the image lies in its file's picture, None when it is all of it.
    """

    image: NDArray[np.float32]
    mask: NDArray[np.uint8] | None
    case_id: str
    name: str
    spacing_mm: tuple[float, ...] | None = None
    path: Path | None = None
    index: int | None = None
    group_id: str | None = None
    placement: Placement | None = None


@dataclass(frozen=True, eq=False)
class Dataset:
    """Samples that belong together, in a fixed order.

    Attributes:
        class_names: background first; a mask's value indexes it.
        class_values: for each class the values that the mask files use.
        channels: of every image.
        problems: one line each for what is odd but not wrong.
        default_split: what ``method: auto`` means here.
        given_split: parts that the folder itself states (its ``test/``), else empty.
        source: origin or licence as noted beside the data, if any.
        hints: one line each of advice: nothing is odd, but another setting may suit better.
        in_plane: how slices were resampled and cropped, None when they were not.
    """

    name: str
    root: Path | None
    samples: tuple[Sample, ...]
    class_names: tuple[str, ...]
    class_values: tuple[tuple[int, ...], ...]
    channels: int
    reader: str
    problems: tuple[str, ...] = ()
    default_split: Literal["random", "blocks"] = "random"
    given_split: dict[Part, tuple[str, ...]] = field(default_factory=dict)
    source: str | None = None
    hints: tuple[str, ...] = ()
    in_plane: InPlane | None = None

    @property
    def group_of(self) -> dict[str, str]:
        """The group of every case, in the order of the samples."""
        groups: dict[str, str] = {}
        for sample in self.samples:
            groups.setdefault(sample.case_id, sample.group_id or sample.case_id)
        return groups

    @property
    def case_ids(self) -> tuple[str, ...]:
        """Every case once, in the order of the samples."""
        return tuple(dict.fromkeys(sample.case_id for sample in self.samples))

    def of_cases(self, case_ids: Collection[str]) -> tuple[Sample, ...]:
        """The samples of these cases, in the dataset's order."""
        wanted = frozenset(case_ids)
        return tuple(sample for sample in self.samples if sample.case_id in wanted)


@dataclass(frozen=True, eq=False)
class RawSample:
    """As read from the file, before channels and classes are agreed on for the whole dataset.

    ``pixels`` is (c, h, w) in the file's dtype; a grey picture stored as RGB has c = 1 and ``file_channels`` 3.
    ``labels`` is (h, w), any integer dtype, the mask file's own values.
    """

    pixels: NDArray
    file_channels: int
    labels: NDArray | None
    case_id: str
    name: str
    spacing_mm: tuple[float, ...] | None
    path: Path
    index: int | None = None
    part: Part | None = None
    mask_path: Path | None = None
    group_id: str | None = None


@dataclass(frozen=True, eq=False)
class Found:
    """What one reader found in a folder."""

    samples: tuple[RawSample, ...]
    problems: tuple[str, ...] = ()
    default_split: Literal["random", "blocks"] = "random"
    class_names: dict[int, str] | None = None  # mask value -> name, where the folder states it
    regions: dict[str, tuple[int, ...]] = field(default_factory=dict)  # name -> mask values (BraTS)
    hints: tuple[str, ...] = ()
    is_hounsfield: bool = False  # whether the folder says that its values are Hounsfield units
