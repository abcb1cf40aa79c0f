"""What the reader, the split and the normalisation are told: frozen, validated, every field described."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, field_validator, model_validator

Fraction = Annotated[float, Field(gt=0.0, lt=1.0)]
Reader = Literal["auto", "pairs", "stack", "kaggle_3m", "nifti", "gm_challenge", "brats", "dicom", "phantom"]
Length = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
Pixels = Annotated[int, Field(gt=0)]

PHANTOM = Path("phantom")  # the special path that means: no folder, the built-in phantom
BACKGROUND = "background"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class NormalizationConfig(_Frozen):
    """How raw intensities become the network's input."""

    kind: Literal["image", "dataset", "window"] = Field(
        "image",
        description="image: z-score of each image and channel; dataset: z-score by the training cases' mean and "
        "standard deviation; window: [low, high] mapped to [-1, 1] and clipped (CT in Hounsfield units)",
    )
    low: float | None = Field(None, description="lower end of the window, in the image's raw unit")
    high: float | None = Field(None, description="upper end of the window, in the image's raw unit")

    @model_validator(mode="after")
    def _window_is_complete(self) -> NormalizationConfig:
        given = self.low is not None or self.high is not None
        if self.kind != "window" and given:
            raise ValueError(f"low and high belong to kind: window, not to kind: {self.kind}")
        if self.kind == "window" and (self.low is None or self.high is None or not self.low < self.high):
            raise ValueError(f"kind: window needs low < high, got low={self.low}, high={self.high}")
        return self


class SplitConfig(_Frozen):
    """Which cases train, which select, which test: by fractions, or stated."""

    method: Literal["auto", "random", "blocks"] = Field(
        "auto",
        description="random: seeded permutation of the cases; blocks: contiguous runs of cases, the test cases last "
        "(neighbouring slices of one stack look alike); auto: blocks for stacks, random otherwise",
    )
    validation: Fraction = Field(0.15, description="fraction of all cases used for validation")
    test: Fraction = Field(0.2, description="fraction of all cases used for testing")
    seed: int = Field(0, ge=0, description="seed of the random permutation")
    fold: NonNegativeInt | Literal["seed"] = Field(
        0,
        description="fold k tests the cases before those of fold k - 1, as many, so that folds test different ones; "
        "`seed`: the run's seed is its fold",
    )
    train_cases: tuple[str, ...] | None = Field(None, description="case ids that train; absent: all not named below")
    validation_cases: tuple[str, ...] | None = Field(None, description="case ids of the validation part")
    test_cases: tuple[str, ...] | None = Field(None, description="case ids of the test part")
    file: Path | None = Field(None, description="a split.json of an earlier run: exactly this split is used")

    @model_validator(mode="after")
    def _parts_fit(self) -> SplitConfig:
        if self.validation + self.test >= 1.0:
            raise ValueError(f"validation {self.validation} + test {self.test} leave no case to train")
        lists = (self.train_cases, self.validation_cases, self.test_cases)
        if self.file is not None and any(part is not None for part in lists):
            raise ValueError("give the split as a file or as lists of cases, not both")
        return self


class DataConfig(_Frozen):
    """Where images and masks are, and what they mean."""

    path: Path | None = Field(None, description='folder of the data, or "phantom" for the built-in phantom')
    reader: Reader = Field("auto", description="layout of the folder; auto looks at the files")
    classes: dict[str, tuple[int, ...]] | None = Field(
        None,
        description="foreground class name -> values in the mask files, in the order of the class indices; "
        'the name "background" may list further background values; absent: found from the masks',
    )
    case_pattern: str | None = Field(
        None,
        description="regular expression searched in each file's path below the folder; group 1 is the patient, whose "
        "images stay in one part of the split; of pictures it is the case too, of volumes each volume is a case; "
        "absent: habits such as PANCREAS_0001 and sub-01 are found by themselves",
    )
    channels: Literal["auto", "grey", "rgb"] = Field(
        "auto", description="auto: as the files have it, grey when all are grey; grey: RGB becomes grey by luma"
    )
    label: str | None = Field(
        None,
        description='which masks to take when an image has several: the beginning of what follows its name ("gmseg")',
    )
    rater: Literal["majority"] | Pixels = Field(
        "majority",
        description="which of several raters' masks (x-mask-r1 ...): one by number, or for each pixel the value that "
        "most of them gave; of values with equally many votes the smallest, so 2:2 is background",
    )
    region: Literal["whole_tumour", "core", "enhancing"] | None = Field(
        None, description="BraTS: this region of the label values is the one foreground class; absent: every label is"
    )
    label_flip: tuple[Literal["rows", "columns", "slices"], ...] | None = Field(
        None,
        description="NIfTI labels of a DICOM series: take them as stored, not by their affine, with these axes "
        "reversed; [] reverses none; absent: by the affine",
    )
    resample_mm: tuple[Length, Length] | None = Field(
        None, description="(row, column) spacing to which every slice is resampled: image linear, mask nearest"
    )
    resize_px: tuple[Pixels, Pixels] | None = Field(
        None,
        description="(rows, columns) to which every slice is resampled, for pictures whose spacing is not recorded: "
        "image linear, mask nearest; the proportions of pictures of other shapes change",
    )
    crop_px: tuple[Pixels, Pixels] | None = Field(
        None,
        description="(rows, columns) kept about the centre of every slice, after resampling; smaller slices stay whole",
    )
    neighbour_slices: int = Field(
        0,
        ge=0,
        le=5,
        description="2.5-D input: so many slices before and after each as further channels, the outermost repeated at "
        "the ends; for volumes, stacks, DICOM series, kaggle_3m",
    )
    normalization: NormalizationConfig = Field(
        default_factory=lambda: NormalizationConfig.model_validate({}), description="raw intensities to network input"
    )
    split: SplitConfig = Field(
        default_factory=lambda: SplitConfig.model_validate({}), description="cases to train, validation and test"
    )
    foreground_slices_only_in_training: bool = Field(
        False, description="leave slices with an empty mask out of the training part (never out of the others)"
    )

    @field_validator("crop_px", "resample_mm", "resize_px", mode="before")
    @classmethod
    def _square_from_one_number(cls, value: object) -> object:
        return (value, value) if isinstance(value, int | float) and not isinstance(value, bool) else value

    @model_validator(mode="after")
    def _classes_are_distinct(self) -> DataConfig:
        if self.resample_mm is not None and self.resize_px is not None:
            raise ValueError("resample_mm and resize_px both say the grid of the slices: give one of them")
        if self.region is not None and self.classes is not None:
            raise ValueError("region and classes both say what the foreground is: give one of them")
        if self.classes is not None:
            if not any(name != BACKGROUND for name in self.classes):
                raise ValueError("classes needs at least one foreground class")
            values = [value for wanted in self.classes.values() for value in wanted]
            if len(set(values)) != len(values):
                raise ValueError(f"classes gives the same mask value to two classes: {dict(self.classes)}")
            empty = [name for name, wanted in self.classes.items() if not wanted]
            if empty:
                raise ValueError(f"class {empty[0]!r} lists no mask value")
        if self.case_pattern is not None:
            try:
                groups = re.compile(self.case_pattern).groups
            except re.error as error:
                raise ValueError(f"case_pattern {self.case_pattern!r} is no regular expression: {error}") from error
            if groups < 1:
                raise ValueError(f"case_pattern {self.case_pattern!r} needs a group ( ) around the case id")
        return self
