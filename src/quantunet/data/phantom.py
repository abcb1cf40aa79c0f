"""A built-in phantom: drawn lesions in a speckled, unevenly lit picture, for demos and tests without data.

Made so that no threshold finds the lesions: their contrast has either sign, the illumination varies as much as
they do, and bright and dark vessels that are no lesions lie about. What tells a lesion is its closed,
smooth, compact shape and its local texture.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from quantunet.data.sample import Dataset, Sample

_SPACING_MM = (0.5, 0.5)


def phantom_dataset(cases: int = 40, slices: int = 4, size: int = 128, seed: int = 0) -> Dataset:
    """``cases`` x ``slices`` pictures of ``size`` x ``size`` pixels with 0 to 3 lesions each; seeded, so repeatable.

    The slices of one case share their illumination, noise and vessels, and their lesions drift from slice to slice,
    so a split by case is the honest one.
    """
    samples = []
    for case in range(cases):
        # a generator per case: the first cases stay the same when more are asked for
        case_rng = np.random.default_rng([seed, case])
        pictures = _draw_case(case_rng, slices, size)
        for index, (image, mask) in enumerate(pictures):
            case_id = f"phantom_{case:03d}"
            samples.append(Sample(image[None], mask, case_id, f"{case_id}/slice_{index:02d}", _SPACING_MM, None, index))
    return Dataset(
        name="phantom",
        root=None,
        samples=tuple(samples),
        class_names=("background", "lesion"),
        class_values=((0,), (255,)),
        channels=1,
        reader="phantom",
        source=f"drawn: {cases} cases, {slices} slices, {size}x{size}, seed {seed}",
    )


def write_phantom(folder: Path, cases: int = 40, slices: int = 4, size: int = 128, seed: int = 0) -> Path:
    """The phantom as images/ and masks/ PNGs (0 and 255) below ``folder``; readable with case_pattern (phantom_[0-9]+).

    Intensities are whole numbers 0 to 255 already, so the files hold exactly the same images.
    """
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for sample in phantom_dataset(cases, slices, size, seed).samples:
        assert sample.mask is not None
        file_name = sample.name.replace("/", "_") + ".png"
        Image.fromarray(sample.image[0].astype(np.uint8)).save(folder / "images" / file_name)
        Image.fromarray(sample.mask * np.uint8(255)).save(folder / "masks" / file_name)
    return folder


def _draw_case(rng: np.random.Generator, slices: int, size: int) -> list[tuple[NDArray[np.float32], NDArray[np.uint8]]]:
    rows, columns = np.mgrid[0:size, 0:size] / size
    bias = _smooth_field(rng, size, size / 3) * 18 + (rows - 0.5) * rng.uniform(-45, 20)
    texture = _smooth_field(rng, size, 3) * 7
    lesions = [_Lesion(rng) for _ in range(rng.choice(4, p=[0.06, 0.44, 0.32, 0.18]))]
    vessels = [_Vessel(rng) for _ in range(rng.integers(2, 5))]
    speckle, blur_px = rng.uniform(0.07, 0.14), rng.uniform(0.6, 1.1)
    pictures = []
    for index in range(slices):
        drift = (index - (slices - 1) / 2) / max(1, slices)
        tissue = 110 + bias + texture
        for vessel in vessels:
            tissue = vessel.paint(tissue, rows, columns, drift)
        mask = np.zeros((size, size), bool)
        for lesion in lesions:
            inside = lesion.inside(rows, columns, drift) & ~mask
            edge = gaussian_filter(inside.astype(float), 0.8)  # partial volume at the border
            grain = lesion.grain * _smooth_field(rng, size, 1.2)
            tissue = tissue + edge * (lesion.contrast + grain)
            mask |= inside
        tissue = gaussian_filter(tissue, blur_px)
        noise = gaussian_filter(rng.standard_normal((size, size)), 0.7) * 1.9  # speckle has a grain size
        seen = tissue * (1 + speckle * noise) + rng.standard_normal((size, size)) * 3
        image = np.clip(np.rint(seen), 0, 255).astype(np.uint8)  # as a file would hold it
        pictures.append((image.astype(np.float32), mask.astype(np.uint8)))
    return pictures


class _Lesion:
    """A smooth closed contour: a radius with random harmonics around a centre, in units of the picture."""

    def __init__(self, rng: np.random.Generator):
        self.centre = rng.uniform(0.2, 0.8, 2)
        self.radius = rng.uniform(0.08, 0.21)
        self.stretch = rng.uniform(0.65, 1.0)
        self.angle = rng.uniform(0, np.pi)
        self.harmonics = [(k, rng.normal(0, 0.22 / k), rng.uniform(0, 2 * np.pi)) for k in range(2, 7)]
        self.contrast = float(rng.choice([-1, 1]) * rng.uniform(36, 66))
        self.grain = rng.uniform(2, 12)
        self.motion = rng.uniform(-0.05, 0.05, 2)
        self.growth = rng.uniform(-0.35, 0.35)

    def inside(self, rows: NDArray, columns: NDArray, drift: float) -> NDArray[np.bool_]:
        y, x = rows - self.centre[0] - drift * self.motion[0], columns - self.centre[1] - drift * self.motion[1]
        u = np.cos(self.angle) * x + np.sin(self.angle) * y
        v = (np.cos(self.angle) * y - np.sin(self.angle) * x) / self.stretch
        theta = np.arctan2(v, u)
        radius = self.radius * (1 + self.growth * drift)
        contour = radius * (1 + sum(a * np.cos(k * theta + phase) for k, a, phase in self.harmonics))
        return np.hypot(u, v) < np.maximum(contour, 0.35 * radius)


class _Vessel:
    """A long, thin, bent band, as bright or as dark as a lesion: a distractor."""

    def __init__(self, rng: np.random.Generator):
        self.offset, self.angle = rng.uniform(-0.45, 0.45), rng.uniform(0, np.pi)
        self.bend, self.wave, self.phase = rng.uniform(0.02, 0.08), rng.uniform(4, 10), rng.uniform(0, 2 * np.pi)
        self.width = rng.uniform(0.010, 0.028)
        self.contrast = float(rng.choice([-1, 1], p=[0.35, 0.65]) * rng.uniform(30, 70))
        self.motion = rng.uniform(-0.05, 0.05)

    def paint(self, tissue: NDArray, rows: NDArray, columns: NDArray, drift: float) -> NDArray:
        along = np.cos(self.angle) * (columns - 0.5) + np.sin(self.angle) * (rows - 0.5)
        across = np.cos(self.angle) * (rows - 0.5) - np.sin(self.angle) * (columns - 0.5)
        distance = across - self.offset - drift * self.motion - self.bend * np.sin(self.wave * along + self.phase)
        return tissue + self.contrast * np.exp(-0.5 * (distance / self.width) ** 2)


def _smooth_field(rng: np.random.Generator, size: int, sigma_px: float) -> NDArray[np.float64]:
    """Gaussian-filtered noise, mean 0 and standard deviation 1, (size, size)."""
    field = gaussian_filter(rng.standard_normal((size, size)), sigma_px, mode="wrap")
    return (field - field.mean()) / max(float(field.std()), 1e-12)
