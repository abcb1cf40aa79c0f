"""Training crops, drawn and augmented as a pure function of seed and step.

No sampler has a position and no generator a state, so a resumed run sees the same batches, and so does a run that
splits each batch over several processes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from quantunet.train.config import AugmentationConfig

ELASTIC_KNOTS = 5
"""The elastic field is drawn on 5 x 5 knots a crop and interpolated between them."""


@dataclass(frozen=True)
class TrainingSet:
    """Normalised images (c, h, w) float32, their masks (h, w) uint8, (row, column) of each mask's foreground (k, 2)."""

    images: Sequence[Tensor]
    masks: Sequence[Tensor]
    foreground: Sequence[Tensor]


def build_training_set(images: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> TrainingSet:
    """From arrays (c, h, w) and (h, w)."""
    truths = [torch.from_numpy(mask) for mask in masks]
    return TrainingSet([torch.from_numpy(image) for image in images], truths, [truth.nonzero() for truth in truths])


def sample_batch(
    data: TrainingSet,
    seed: int,
    step: int,
    indices: range,
    crop_px: int,
    foreground_share: float,
    augmentation: AugmentationConfig,
) -> tuple[Tensor, Tensor]:
    """The crops ``indices`` of the batch of ``step``: images (n, c, s, s) float32 and targets (n, s, s) int64."""
    crops = []
    for index in indices:
        words = np.random.SeedSequence([seed, step, index]).generate_state(1, np.uint64)
        generator = Generator().manual_seed(int(words[0]))
        crops.append(_draw_crop(data, generator, crop_px, foreground_share, augmentation))
    images, targets = zip(*crops, strict=True)
    return torch.stack(images).to(memory_format=torch.channels_last), torch.stack(targets)


def _draw_crop(
    data: TrainingSet, generator: Generator, crop_px: int, foreground_share: float, augmentation: AugmentationConfig
) -> tuple[Tensor, Tensor]:
    index = int(torch.randint(len(data.images), (), generator=generator))
    image, mask = data.images[index], data.masks[index]
    centre = _draw_centre(data, index, generator, crop_px, foreground_share)
    grid = centre + _draw_deformation(generator, crop_px, augmentation)  # (s, s, 2), (row, column) in pixels
    size = torch.tensor(mask.shape, dtype=torch.float32)
    # grid_sample wants (x, y) in -1..1 from the outer edge of the first pixel to that of the last
    normalised = ((2 * grid + 1) / size - 1).flip(-1).unsqueeze(0)
    crop = F.grid_sample(image[None], normalised, mode="bilinear", padding_mode="reflection", align_corners=False)[0]
    labels = mask[None, None].float()
    target = F.grid_sample(labels, normalised, mode="nearest", padding_mode="reflection", align_corners=False)[0, 0]
    return _change_intensity(crop, generator, augmentation), target.long()


def _uniform(generator: Generator, low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))


def _draw_centre(data: TrainingSet, index: int, generator: Generator, crop_px: int, foreground_share: float) -> Tensor:
    size = data.masks[index].shape
    wants_foreground = _uniform(generator, 0, 1) < foreground_share
    anywhere = [int(torch.randint(side, (), generator=generator)) for side in size]
    pixels = data.foreground[index] if wants_foreground else torch.empty(0, 2)
    pick = int(torch.randint(max(len(pixels), 1), (), generator=generator))
    point = [int(value) for value in pixels[pick]] if len(pixels) else anywhere
    half = crop_px // 2
    # keep the crop inside where the image is large enough, else centre the image in the crop
    inside = [
        min(max(value, half), side - half) if side >= crop_px else side // 2
        for value, side in zip(point, size, strict=True)
    ]
    return torch.tensor(inside, dtype=torch.float32) - 0.5


def _draw_deformation(generator: Generator, crop_px: int, augmentation: AugmentationConfig) -> Tensor:
    """(s, s, 2) offsets from the centre. Half of the crops only turn by right angles, so stay sharp."""
    axis = torch.arange(crop_px, dtype=torch.float32) - (crop_px - 1) / 2
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), dim=-1)
    if augmentation.flip:
        signs = torch.randint(2, (2,), generator=generator) * 2 - 1
        grid = grid * signs
    if augmentation.rotate_degrees >= 90 and _uniform(generator, 0, 1) < 0.5:
        grid = grid.transpose(0, 1).flip(0) if augmentation.flip else torch.rot90(grid, 1, (0, 1))
    if _uniform(generator, 0, 1) < 0.5:
        angle = math.radians(_uniform(generator, -augmentation.rotate_degrees, augmentation.rotate_degrees))
        zoom = math.exp(_uniform(generator, -1, 1) * math.log1p(augmentation.scale))
        cosine, sine = math.cos(angle) * zoom, math.sin(angle) * zoom
        grid = grid @ torch.tensor([[cosine, sine], [-sine, cosine]])
        knots = torch.rand((1, 2, ELASTIC_KNOTS, ELASTIC_KNOTS), generator=generator) * 2 - 1
        field = F.interpolate(knots, size=(crop_px, crop_px), mode="bicubic", align_corners=True)[0]
        grid = grid + field.permute(1, 2, 0) * augmentation.elastic_px
    return grid


def _change_intensity(image: Tensor, generator: Generator, augmentation: AugmentationConfig) -> Tensor:
    """Each channel of its own: sequences of one examination differ from scanner to scanner independently."""
    gain = 1 + _signed(image, generator) * augmentation.contrast
    offset = _signed(image, generator) * augmentation.brightness
    deviation = _uniform(generator, 0, 1) * augmentation.noise
    noise = torch.randn(image.shape, generator=generator)
    return image * gain + offset + noise * deviation


def _signed(image: Tensor, generator: Generator) -> Tensor:
    return torch.rand((len(image), 1, 1), generator=generator) * 2 - 1
