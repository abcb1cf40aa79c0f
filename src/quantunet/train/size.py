"""What the budgets count, of a network in training: measured on the model that it becomes, followed by formula between.

Packed weights and operations follow from the widths. What a formula does not know (header, biases and shifts of a file,
code, the pixels of a real image, the planner's arena) is measured on the lowered network and held until ``refresh``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from quantunet.nn import widths
from quantunet.nn.prepare import weight_quantizers
from quantunet.nn.removal import remove_channels_
from quantunet.nn.unet import UNet
from quantunet.quant.quantizers import Quantizer
from quantunet.train.budget import (
    CHANNEL_KINDS,
    PRODUCT_POWERS,
    Budget,
    BudgetController,
    Kind,
    check_feasible,
    rounding_shift,
)
from quantunet.train.channels import drop_channels_, drop_groups_, mac_costs, ram_costs

REFINEMENTS = 4
"""Times that the freezing is repeated with what the model frozen before really measured."""
TABLES_AIM = 0.995
"""Share of a budget of tables that the freezing aims at: the folding changes in steps, which no formula follows."""


@dataclass(frozen=True)
class Measures:
    """How an integer model is measured; each takes a network without channels of 0 bits.

    Args:
        amount: of a kind, in the unit of its budget.
        peak_tensors: bytes of the tensors that are alive when most are, by name of the layer's step.
        latency_savings: by layer, numbers of channels without which the engine is faster, and the milliseconds saved.
    """

    amount: Callable[[Kind, UNet], float]
    peak_tensors: Callable[[UNet], Mapping[str, int]]
    latency_savings: Callable[[UNet], Mapping[str, Sequence[tuple[int, float]]]]


class Sizes:
    """The budgets of a run, and how large the network is in the unit of each.

    Args:
        budgets: each kind once.
        network: quantized; its channels may vanish and be removed meanwhile.
    """

    def __init__(self, budgets: Sequence[Budget], network: UNet, measures: Measures) -> None:
        self.budgets = tuple(budgets)
        self._network, self._measures = network, measures
        self.held: dict[str, float] = {}
        """By kind: bytes or a factor beside the formula, or the amount itself; part of a checkpoint."""
        self.refresh()

    def limit_operations_(self) -> Budget | None:
        """Budget the operations too, of a network with all its channels, where only their bits or tables are limited.

        Bit operations are a product of three, operations, weight bits and activation bits; each does a third of the
        descent. Widths alone would become so narrow that classes are lost: with a tenth of the bit operations, the Dice
        of two structures in ultrasound fell from .44 to .22, with fewer channels to .44 (docs/lab_log.md).
        """
        if any(budget.kind == "macs" for budget in self.budgets):
            return None
        products = [budget for budget in self.budgets if budget.kind in PRODUCT_POWERS]
        shares = [(each.amount / self.now(each)) ** (1 / PRODUCT_POWERS[each.kind]) for each in products]
        if not shares or min(shares) >= 1:
            return None
        macs = self._measures.amount("macs", self._network)
        limit = Budget("macs", min(shares) ** (1 / 3) * macs)
        self.budgets = (*self.budgets, limit)
        self.held["macs"] = macs / _by_formula("macs", self._network)
        return limit

    @property
    def drops_channels(self) -> bool:
        """Whether some budget is met by removing the least important channels."""
        return any(budget.kind in CHANNEL_KINDS for budget in self.budgets)

    def refresh(self, network: UNet | None = None) -> None:
        """Measure what the formulas do not know, on ``network``, or on the one in training."""
        smaller = copy.deepcopy(network or self._network)
        remove_channels_(smaller)
        for budget in self.budgets:
            if budget.kind == "bits" or (budget.kind == "flash" and network is None and self.held.get("flash")):
                continue  # code is compiled once, and again at the freezing
            amount = self._measures.amount(budget.kind, smaller)
            match budget.kind:
                case "file" | "flash":
                    self.held[budget.kind] = amount - widths.packed_weight_bytes(smaller)
                case "macs" | "bops" | "lut":
                    self.held[budget.kind] = amount / _by_formula(budget.kind, smaller)
                case "ram" | "latency":
                    self.held[budget.kind] = amount

    def now(self, budget: Budget) -> float:
        """The size in the unit of ``budget``, with widths rounded as they are."""
        return self.of(budget, lambda quantizer: quantizer.bit_width)

    def of(self, budget: Budget, width_of: widths.WidthOf) -> float:
        """The size under other widths; ``ram`` and ``latency`` as last measured."""
        match budget.kind:
            case "bits":
                return widths.weight_bits(self._network, width_of)
            case "file" | "flash":
                return widths.packed_weight_bytes(self._network, width_of) + self.held[budget.kind]
            case "macs" | "bops" | "lut":
                return _by_formula(budget.kind, self._network, width_of) * self.held[budget.kind]
            case "ram" | "latency":
                return self.held[budget.kind]

    def steer(self, controllers: Mapping[Kind, BudgetController], step: int) -> dict[Kind, float]:
        """The weight of each term for ``step``; operations and memory have none, they fall by ``drop_channels_``."""
        return {
            budget.kind: controllers[budget.kind].update(step, self.now(budget), self._fixed(budget))
            for budget in self.budgets
            if budget.kind not in CHANNEL_KINDS
        }

    def is_below_plan(self, controllers: Mapping[Kind, BudgetController], step: int) -> bool:
        """Whether all sizes that widths make are so far below their plan that channels had better stay."""
        errors = [
            controllers[budget.kind].error(step, self.now(budget), self._fixed(budget))
            for budget in self.budgets
            if budget.kind not in CHANNEL_KINDS
        ]
        return bool(errors) and max(errors) < -BudgetController.FADING

    def _fixed(self, budget: Budget) -> float:
        return self.held[budget.kind] if budget.kind in ("file", "flash") else 0.0

    def check_feasible(self) -> None:
        """Refuse what even the narrowest widths would exceed.

        Raises:
            UserError: naming the first budget that is impossible.
        """
        narrowest = copy.deepcopy(self._network)
        for quantizer in weight_quantizers(narrowest).values():
            quantizer.freeze_bit_width_(-8.0)
        remove_channels_(narrowest)
        least = Sizes(self.budgets, narrowest, self._measures)
        for budget in self.budgets:
            check_feasible(budget, least.now(budget))

    def drop_channels_(self, plan: Callable[[Budget], float], optimizer: torch.optim.Optimizer | None = None) -> None:
        """Remove channels until operations, memory and time are within ``plan``: a budget's amount for now."""
        limits = [budget for budget in self.budgets if budget.kind in CHANNEL_KINDS]
        by_channel = [budget for budget in limits if budget.kind != "latency"]
        by_group = [budget for budget in limits if budget.kind == "latency"]

        def exceeds(budget: Budget) -> bool:
            return self._measures.amount(budget.kind, self._network) > plan(budget)

        def excess() -> dict[str, float]:
            costs: dict[str, float] = {}
            for budget in filter(exceeds, by_channel):
                one = mac_costs(self._network) if budget.kind == "macs" else self._ram_costs()
                for name, cost in one.items():
                    costs[name] = costs.get(name, 0.0) + cost / plan(budget)
            return costs

        def savings() -> Mapping[str, Sequence[tuple[int, float]]]:
            return self._measures.latency_savings(self._network) if any(map(exceeds, by_group)) else {}

        if limits:
            remove_channels_(self._network, optimizer)
            drop_channels_(self._network, excess, optimizer)
            drop_groups_(self._network, savings, optimizer)

    def _ram_costs(self) -> dict[str, float]:
        return ram_costs(self._network, self._measures.peak_tensors(self._network))

    def freezing(self) -> float | dict[Quantizer, Tensor]:
        """The shift of the widths, one for all or one for each, with which ``freeze_bit_widths_`` meets the budgets.

        Where operations or memory are limited, the least important channels are removed first, as many as it takes.
        """
        self.drop_channels_(lambda budget: budget.amount)
        steered = [budget for budget in self.budgets if budget.kind not in CHANNEL_KINDS]
        self.refresh()
        if not steered:
            return 0.5
        shift = self._shift(steered)
        found: dict[float, float | dict[Quantizer, Tensor]] = {}  # what fits, by the share it takes
        for _ in range(REFINEMENTS):
            trial, before = copy.deepcopy(self._network), dict(self.held)
            for mine, theirs in zip(
                weight_quantizers(self._network).values(), weight_quantizers(trial).values(), strict=True
            ):
                theirs.freeze_bit_width_(_of(shift, mine))
            self.refresh(trial)
            if self.held == before:
                break
            taken = self._load(steered, lambda quantizer: quantizer.frozen_bit_width(_of(shift, quantizer)))  # noqa: B023
            if taken <= 1:
                found[taken] = shift
            shift = self._shift(steered)
        counts_tables = any(budget.kind == "lut" for budget in steered)  # no formula follows their steps to the end
        return found[max(found)] if counts_tables and found else shift

    def _shift(self, steered: Sequence[Budget]) -> float | dict[Quantizer, Tensor]:
        aim = TABLES_AIM if any(budget.kind == "lut" for budget in steered) else 1.0
        shift = rounding_shift(
            lambda shift: self._load(steered, lambda quantizer: quantizer.frozen_bit_width(shift)), aim
        )
        if shift == 0.5:
            return shift
        return widths.shifts_within(self._network, shift, lambda width_of: self._load(steered, width_of) <= aim)

    def _load(self, steered: Sequence[Budget], width_of: widths.WidthOf) -> float:
        """The largest share of a budget that the network of given widths takes."""
        return max(self.of(budget, width_of) / budget.amount for budget in steered)


def _by_formula(kind: Kind, network: UNet, width_of: widths.WidthOf = lambda quantizer: quantizer.bit_width) -> float:
    """What operations and tables are in proportion to, as widths change."""
    macs, bops = widths.operations(network, width_of)
    return macs if kind == "macs" else bops ** PRODUCT_POWERS[kind]


def _of(shift: float | dict[Quantizer, Tensor], quantizer: Quantizer) -> float | Tensor:
    return shift[quantizer] if isinstance(shift, dict) else shift
