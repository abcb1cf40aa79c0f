"""The configuration of a training: frozen, validated. It stops at the door: builders flatten it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from quantunet.data.config import DataConfig
from quantunet.train.budget import CHANNEL_KINDS, Budget, parse_budgets

DISTILLATION_OF_OURS = {"feature_distillation": 3.0, "distillation_share": 0.25}
"""Of the learned quantizer, unless the first of them is stated."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class NetworkConfig(_Section):
    """The U-Net."""

    base_channels: int = Field(
        default=16, ge=1, le=128, description="channels at full resolution; they double by level"
    )
    levels: int = Field(default=4, ge=2, le=6, description="number of resolutions")
    upsampling: Literal["nearest", "bilinear", "transposed"] = "nearest"
    channels: tuple[Annotated[int, Field(ge=1, le=1024)], ...] | None = Field(
        default=None, description="channels of each level, in place of base_channels and its doubling"
    )
    head_kernel: Literal[1, 3] = Field(default=1, description="kernel of the last convolution")
    order: Literal["conv_bn_relu", "conv_relu_bn"] = Field(
        default="conv_bn_relu", description="`conv_relu_bn`, of 1908.01073, cannot be folded: it gives no integer model"
    )

    @model_validator(mode="after")
    def _channels_suit_levels(self) -> NetworkConfig:
        if self.channels is not None and len(self.channels) != self.levels:
            raise ValueError(f"channels names {len(self.channels)} levels and levels is {self.levels}: make them agree")
        return self


class WidthConfig(_Section):
    """Bit widths of the weights, or of the activations."""

    bit_width: int = Field(default=8, ge=1, le=8, description="width at the start; for `uniform`, the width")
    min_bit_width: int = Field(
        default=1,
        ge=0,
        le=8,
        description="of weights under `learned` 0, unless stated or by layer: channels may vanish",
    )
    max_bit_width: int = Field(default=8, ge=1, le=8)
    integer_bits: int | None = Field(default=None, ge=0, le=8, description="of `fixed_point`: i of Q_{i.f}")
    fractional_bits: int | None = Field(default=None, ge=0, le=8, description="of `fixed_point`: f of Q_{i.f}")

    @model_validator(mode="after")
    def _widths_are_in_order(self) -> WidthConfig:
        if not self.min_bit_width <= self.bit_width <= self.max_bit_width:
            raise ValueError(
                f"bit_width {self.bit_width} does not lie between min_bit_width {self.min_bit_width} "
                f"and max_bit_width {self.max_bit_width}"
            )
        return self


class QuantizerConfig(_Section):
    """Which quantizer, and how its widths are learned."""

    name: Literal[
        "learned", "brevitas", "interpolated", "dq", "hgq", "uniform", "fixed_point", "ternary", "binary", "float"
    ] = Field(
        default="learned",
        description="`learned`: ours; `brevitas`: QuantU-Net as published; `interpolated`, `dq`, `hgq`: other learned "
        "widths; `uniform`, `fixed_point`, `ternary`, `binary`: fixed ones; `float`: none",
    )
    weight: WidthConfig = WidthConfig()
    activation: WidthConfig = WidthConfig()
    per: Literal["channel", "group", "layer"] = Field(
        default="channel", description="one width for each output channel, group of channels (`learned`), or layer"
    )
    group_size: int = Field(
        default=4, ge=2, le=64, description="of `per: group`: output channels that share a width, and vanish together"
    )
    saturate: bool = Field(default=False, description="of `fixed_point`: round and saturate, where the paper wraps")
    power_of_two: bool = Field(default=True, description="of `dq`: the step is a power of two, so lowers exactly")
    float_layers: Literal["none", "first_and_last"] = Field(
        default="none",
        description="`first_and_last`, of 1908.01073: first block, last layer, biases, interpolation in float; gives "
        "no integer model",
    )
    int8_layers: Literal["none", "first_and_last"] = Field(
        default="none", description="`first_and_last`: weights of the first block and the last layer at 8 bits"
    )

    @model_validator(mode="before")
    @classmethod
    def _channels_may_vanish(cls, raw: Any) -> Any:
        if not isinstance(raw, dict) or raw.get("name", "learned") != "learned" or raw.get("per", "channel") == "layer":
            return raw
        weight = raw.get("weight", {})
        return raw | {"weight": {"min_bit_width": 0} | weight} if isinstance(weight, dict) else raw

    @model_validator(mode="after")
    def _options_suit_the_name(self) -> QuantizerConfig:
        parts = (self.weight, self.activation)
        if self.name == "fixed_point":
            for part, what in zip(parts, ("weight", "activation"), strict=True):
                if not (part.integer_bits or 0) + (part.fractional_bits or 0):
                    raise ValueError(f"fixed_point needs {what}.integer_bits and {what}.fractional_bits, not both zero")
        if self.float_layers != "none" and self.int8_layers != "none":
            raise ValueError("float_layers and int8_layers exclude each other: leave one of them at none")
        if self.activation.min_bit_width < 1:
            raise ValueError("activation.min_bit_width is 0: activations have 1 bit at the least, only weights vanish")
        if self.per == "group" and self.name not in ("learned", "uniform"):
            raise ValueError("per is 'group': that needs `name: learned`; take channel or layer")
        if self.weight.min_bit_width < 1 and (self.name != "learned" or self.per == "layer"):
            raise ValueError("weight.min_bit_width is 0: that needs `name: learned`, and `per: channel` or `group`")
        return self

    @property
    def learns_widths(self) -> bool:
        """Whether widths are trained, so that there are a bit term, a budget and a freezing."""
        return self.name in ("learned", "brevitas", "interpolated", "dq", "hgq")


class BitLossConfig(_Section):
    """The bit-width term of the loss."""

    weighting: Literal["parameters", "macs", "layers"] = Field(
        default="parameters", description="what a layer counts in the average: its weights, its MACs, or one"
    )
    fixed_weight: float | None = Field(
        default=None, ge=0, description="lambda of the paper (0.25); null: steered so that the budget is met"
    )
    activation_share: float = Field(
        default=0.1, ge=0, description="weight of the activations' bits beside the weights' bits"
    )
    power: Literal[1, 2] = Field(
        default=1, description="mean of the widths, or of their squares, which is 64 at 8 bits as in QuantU-Net's log"
    )


class LossConfig(_Section):
    """The segmentation part of the loss."""

    bce: float = Field(default=1.0, ge=0, description="weight of (binary) cross-entropy")
    dice: float = Field(default=1.0, ge=0, description="weight of soft Dice loss")
    distillation: float = Field(
        default=1.0, ge=0, description="weight of cross-entropy against the float network, once layers are quantized"
    )
    feature_distillation: float = Field(
        default=0.0,
        ge=0,
        description="weight of the distance of its feature maps to the float network's; under `learned` 3, unless "
        "stated, or distillation is 0",
    )
    distillation_share: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="share of each batch's crops that the float network sees too, for both kinds of distillation; "
        "under `learned` 0.25, unless this or feature_distillation is stated",
    )

    @property
    def needs_teacher(self) -> bool:
        """Whether the float network is part of the loss."""
        return self.distillation > 0 or self.feature_distillation > 0


class PhaseConfig(_Section):
    """One phase of the training: AdamW under a cosine schedule with a short warm-up."""

    steps: int = Field(default=400, ge=0, description="optimizer steps")
    learning_rate: float = Field(default=5e-4, gt=0, description="peak")
    patience: int | None = Field(
        default=10,
        ge=1,
        description="validations without a better Dice before the phase stops early; null: never; needs `select: best`",
    )


class FloatConfig(PhaseConfig):
    """The float pre-training, with batch norm."""

    steps: int = Field(default=1500, ge=0, description="optimizer steps")
    learning_rate: float = Field(default=3e-3, gt=0, description="peak")

    @model_validator(mode="before")
    @classmethod
    def _add_more_steps(cls, values: Any) -> Any:
        """``more_steps``, which a system may state, adds to the ``steps`` that the file of a data set states."""
        if not isinstance(values, dict) or "more_steps" not in values:
            return values
        more, steps = values["more_steps"], values.get("steps", cls.model_fields["steps"].default)
        if type(more) is not int or more < 0 or type(steps) is not int:
            raise ValueError(f"more_steps {more!r} is no number of steps that could be added to steps {steps!r}")
        return {key: value for key, value in values.items() if key != "more_steps"} | {"steps": steps + more}


class QatConfig(PhaseConfig):
    """The phase in which weights, scales and widths train together."""

    steps: int = Field(default=1500, ge=0, description="optimizer steps")
    learning_rate: float = Field(default=1.5e-3, gt=0, description="peak")
    width_learning_rate: float | None = Field(
        default=None, gt=0, description="Adam's, for widths and exponents; null: fast enough for the descent"
    )
    descent: float = Field(
        default=0.6, gt=0, le=1, description="share of the steps over which the target falls to the budget"
    )


class AugmentationConfig(_Section):
    """Random changes to training crops."""

    flip: bool = True
    rotate_degrees: float = Field(default=180.0, ge=0, le=180)
    scale: float = Field(default=0.15, ge=0, lt=1, description="zoom by a factor up to 1 + scale, and its inverse")
    elastic_px: float = Field(default=6.0, ge=0, description="largest displacement, on a smooth random field")
    brightness: float = Field(default=0.15, ge=0, description="added, in units of the normalised image")
    contrast: float = Field(default=0.15, ge=0, lt=1, description="relative")
    noise: float = Field(default=0.05, ge=0, description="standard deviation, in units of the normalised image")


class TrainingConfig(_Section):
    """What all phases share."""

    batch_size: int = Field(default=8, ge=1, description="crops by step, over all processes together")
    crop_px: int = Field(default=128, ge=16, description="side of a square training crop")
    foreground_share: float = Field(default=0.5, ge=0, le=1, description="share of the crops centred on foreground")
    weight_decay: float = Field(default=1e-4, ge=0, description="of weights only; never of widths, scales, biases")
    select: Literal["best", "last"] = Field(
        default="best",
        description="weights that the float phase and the fine-tuning end with: those of the best validation Dice, or "
        "the last ones, where validation cases are too few to choose by",
    )
    validate_every: int = Field(default=100, ge=1, description="steps between validations")
    checkpoint_every: int = Field(default=100, ge=1, description="steps between resume checkpoints")
    float_phase: FloatConfig = FloatConfig()
    qat: QatConfig = QatConfig()
    finetune: PhaseConfig = PhaseConfig()


class FpgaConfig(_Section):
    """The design whose look-up tables a budget of `lut` counts."""

    fps: float | None = Field(
        default=None, gt=0, description="frames a second; null: 30 clocks a pixel, which is 200 of 128x128 at 100 MHz"
    )
    clock_mhz: float = Field(default=100.0, gt=0, description="clock of the design")
    size_px: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None = Field(
        default=None, description="height and width of its images; null: those of the test images"
    )


class Config(_Section):
    """A whole run. Unknown keys are errors; every default is written to the run folder."""

    name: str = Field(default="run", pattern=r"^[A-Za-z0-9_.-]+$", description="names the run folder")
    data: DataConfig
    network: NetworkConfig = NetworkConfig()
    quantizer: QuantizerConfig = QuantizerConfig()
    budget: str | None = Field(
        default="3bit",
        description="'3bit' (average over weights), '64KiB' (model file), several of file, flash, ram, macs, bops, "
        "lut, latency, bits ('flash=64KiB ram=128KiB'), or null",
    )
    fpga: FpgaConfig = FpgaConfig()
    pareto: tuple[str, ...] = Field(
        default=(), description="larger budgets of the same kind, passed on the way to it: each becomes a model too"
    )
    loss: LossConfig = LossConfig()
    bit_loss: BitLossConfig = BitLossConfig()
    training: TrainingConfig = TrainingConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    seed: int = Field(default=0, ge=0)
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = Field(default="32-true", description="Fabric's precision")
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    devices: int = Field(default=1, ge=1, description="processes, over which each batch is split")

    def with_seed(self, seed: int) -> Config:
        """The same run under another seed, which is also its fold where ``data.split.fold`` says so."""
        data = self.data
        if data.split.fold == "seed":
            data = data.model_copy(update={"split": data.split.model_copy(update={"fold": seed})})
        return self.model_copy(update={"seed": seed, "data": data})

    @field_validator("budget")
    @classmethod
    def _budget_is_readable(cls, text: str | None) -> str | None:
        if text is not None:
            parse_budgets(text)
        return text

    @field_validator("devices")
    @classmethod
    def _batch_divides(cls, devices: int, info: ValidationInfo) -> int:
        training = info.data.get("training")
        if training is not None and training.batch_size % devices:
            raise ValueError(f"training.batch_size {training.batch_size} cannot be split evenly over {devices}")
        return devices

    @model_validator(mode="after")
    def _fpga_images_suit_levels(self) -> Config:
        multiple = 2 ** (self.network.levels - 1)
        if self.fpga.size_px is not None and any(length % multiple for length in self.fpga.size_px):
            raise ValueError(f"fpga.size_px {list(self.fpga.size_px)}: both must be multiples of {multiple}")
        return self

    @model_validator(mode="after")
    def _points_lead_to_the_budget(self) -> Config:
        if not self.pareto:
            return self
        sizes = [parse_budgets(text) for text in (*self.pareto, self.budget or "")]
        kinds = {budget.kind for budgets in sizes for budget in budgets}
        if any(len(budgets) > 1 for budgets in sizes) or len(kinds) > 1 or kinds & set(CHANNEL_KINDS):
            raise ValueError("pareto and budget must be sizes of one kind: bits, file, flash, bops or lut")
        amounts = [budgets[0].amount for budgets in sizes]
        if amounts != sorted(set(amounts), reverse=True):
            raise ValueError("pareto must fall from size to size, and all lie above the budget")
        return self

    @model_validator(mode="before")
    @classmethod
    def _ours_learns_from_features(cls, raw: Any) -> Any:
        if not isinstance(raw, dict):
            return raw
        quantizer, loss = raw.get("quantizer", {}), raw.get("loss", {})
        if not isinstance(quantizer, dict) or not isinstance(loss, dict):
            return raw
        if quantizer.get("name", "learned") != "learned" or loss.get("distillation") == 0:
            return raw
        return raw if "feature_distillation" in loss else raw | {"loss": DISTILLATION_OF_OURS | loss}

    @property
    def points(self) -> tuple[Budget, ...]:
        """The sizes of ``pareto`` as numbers, falling."""
        return tuple(parse_budgets(text)[0] for text in self.pareto)

    @property
    def budgets(self) -> tuple[Budget, ...]:
        """The budget as numbers, one for each kind that it names."""
        return () if self.budget is None else parse_budgets(self.budget)
