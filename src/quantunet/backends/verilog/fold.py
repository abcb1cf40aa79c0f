"""How a node's products are spread over arrays and clocks, and the tables of weights and requantization that follow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quantunet import fpga_cost
from quantunet.backends.verilog.stream import EMPTY, Stream
from quantunet.errors import UserError
from quantunet.ir import ranges
from quantunet.ir.graph import ConvTranspose2d, Requantize, WeightNode
from quantunet.ir.ranges import Interval

ROW_CLOCKS = 2
"""Clocks that a window waits at the start of every output row."""


class PlanError(UserError):
    """A graph or a target that no design of this kind fits."""


@dataclass(frozen=True)
class Folding:
    """How the products of a layer are spread over clocks.

    Args:
        inputs: codes multiplied at a time, by every filter of a fold (SIMD).
        filters: filters at a time (PE).
        folds: clock groups that all filters take.
        groups: words of ``inputs`` codes that a pixel takes.
    """

    inputs: int
    filters: int
    folds: int
    groups: int


@dataclass(frozen=True)
class RequantizePlan:
    """The last stage of a node: a table with one entry for each beat and lane, and the widths.

    Args:
        bias, shift, multiplier: (beats x lanes,), as the hardware adds and shifts; rounding is in the bias by shifts.
        left, right: constant shifts before the one from the table.
        sum_bits: signed width of accumulator and bias together.
    """

    bias: tuple[int, ...]
    shift: tuple[int, ...]
    multiplier: tuple[int, ...] | None
    bias_bits: int
    shift_bits: int
    left: int
    right: int
    acc_bits: int
    sum_bits: int
    raw: bool
    low: int
    high: int

    @property
    def entry_bits(self) -> int:
        """Bits of one lane's table entry."""
        return self.bias_bits + self.shift_bits + (31 if self.multiplier is not None else 0)

    @property
    def latency(self) -> int:
        """Clocks from accumulator to code."""
        return 3 if self.multiplier is None else 5


@dataclass(frozen=True)
class WeightPlan:
    """A convolution: folding, which filter each array works on in which fold, and the widths that follow.

    Args:
        channels: (folds, filters), output channels or ``EMPTY``.
        weight_bits, acc_bits: of each of the filters that work at a time.
        multiplied: of each of those filters, whether multipliers make its products.
        ends: of each beat of an output pixel, whether it is the last of its fold.
        rows: image rows kept.
        weights: (depth, filters, inputs), as the weight memory holds them.
    """

    folding: Folding
    channels: NDArray[np.int64]
    weight_bits: tuple[int, ...]
    acc_bits: tuple[int, ...]
    multiplied: tuple[bool, ...]
    ends: tuple[bool, ...]
    rows: int
    kernel: int
    stride: int
    padding: int
    up: int
    weights: NDArray[np.int64]
    requantize: RequantizePlan
    lanes: int

    @property
    def steps(self) -> int:
        """Clocks of one fold."""
        return self.kernel**2 * self.folding.groups

    @property
    def beats(self) -> int:
        """Beats that one fold gives, at the most."""
        return -(-self.folding.filters // self.lanes)

    @property
    def depth(self) -> int:
        """Words of the weight memory."""
        return len(self.weights)

    @property
    def levels(self) -> int:
        """Registers that join the bit planes of the widest filter."""
        return (max(self.weight_bits) - 1).bit_length()

    @property
    def latency(self) -> int:
        """Clocks from a step to its accumulator."""
        pairs = (self.folding.inputs + 1) // 2
        return 5 + (pairs - 1).bit_length() + self.levels


Cost = Callable[[WeightNode, Stream, Folding, Sequence[int], Sequence[int]], float]
"""What a folding costs: node, its input, folding, weight and accumulator widths of the filters at a time."""


def plan_weights(
    node: WeightNode,
    source: Stream,
    bounds: Interval,
    lanes: int,
    size: tuple[int, int],
    clocks: int,
    cost: Cost,
    dsp_tables: float,
) -> WeightPlan:
    """The cheapest folding of a convolution that writes its output of ``size`` (h, w) within ``clocks`` clocks.

    Args:
        dsp_tables: tables that a multiplier counts as; ``inf``: there are none.

    Raises:
        PlanError: if the kernel is not square.
    """
    kernel, stride, padding, up = 1, 1, 0, 2
    sums = ranges.product_sums(node.weight, bounds)
    if isinstance(node, ConvTranspose2d):  # an output pixel sees one of four kernel positions
        parts = [ranges.product_sums(node.weight[:, :, i : i + 1, j : j + 1], bounds) for i in (0, 1) for j in (0, 1)]
        sums = Interval(np.min([part.low for part in parts], 0), np.max([part.high for part in parts], 0))
    elif node.weight.shape[2] != node.weight.shape[3]:
        raise PlanError(f"node {node.name!r}: its kernel is not square, which the Verilog library does not have")
    else:
        kernel, stride, padding, up = node.weight.shape[2], node.stride, node.padding, 1
    weight_bits = _needed_widths(node)
    acc_bits = np.array([signed_bits(int(low), int(high)) for low, high in zip(sums.low, sums.high, strict=True)])

    def rank(folding: Folding) -> tuple[float, float]:
        needed = size[0] * (size[1] * kernel**2 * folding.groups * folding.folds + ROW_CLOCKS)
        channels = _arrange(weight_bits, folding)
        return max(needed - clocks, 0), cost(
            node, source, folding, _by_array(weight_bits, channels), _by_array(acc_bits, channels)
        )

    # sums must not come faster than they leave
    possible = [
        folding
        for folding in _foldings(source.beats, lanes, len(weight_bits))
        if -(-folding.filters // lanes) <= kernel**2 * folding.groups
    ]
    folding = min(possible, key=rank)
    channels = _arrange(weight_bits, folding)
    requantize = plan_requantize(
        node.requantize, node.bias, sums, conv_layout(channels, lanes), max(_by_array(acc_bits, channels))
    )
    return WeightPlan(
        folding,
        channels,
        _by_array(weight_bits, channels),
        _by_array(acc_bits, channels),
        tuple(
            fpga_cost.is_multiplied(folding.inputs, source.bits, *widths, dsp_tables)
            for widths in zip(_by_array(weight_bits, channels), _by_array(acc_bits, channels), strict=True)
        ),
        tuple(at == len(beats) - 1 for beats in _beats(channels, lanes) for at in range(len(beats))),
        2 if up == 2 else kernel + stride,
        kernel,
        stride,
        padding,
        up,
        _arranged_weights(node, source, folding, channels),
        requantize,
        lanes,
    )


def conv_layout(channels: NDArray[np.int64], lanes: int) -> tuple[int, ...]:
    """Places of the output: fold after fold, its filters ``lanes`` at a time; beats without any filter are left out."""
    return tuple(int(place) for beats in _beats(channels, lanes) for beat in beats for place in beat)


def _beats(channels: NDArray[np.int64], lanes: int) -> list[list[NDArray[np.int64]]]:
    """By fold, its beats of ``lanes`` places; those that hold no filter, at the end of a fold, are left out."""
    folds, filters = channels.shape
    places = np.full((folds, -(-filters // lanes) * lanes), EMPTY)
    places[:, :filters] = channels
    split = places.reshape(folds, -1, lanes)
    return [[beat for beat in fold if (beat != EMPTY).any()] for fold in split]


def plan_requantize(
    stage: Requantize | None,
    bias: NDArray[np.integer] | None,
    sums: Interval,
    layout: Sequence[int],
    acc_bits: int,
) -> RequantizePlan:
    """The table and widths behind accumulators whose bounds by channel are ``sums``, bias not counted."""
    channels = len(sums.low)
    offset = np.zeros(channels, np.int64) if bias is None else bias.astype(np.int64)
    shift, multiplier = np.zeros(channels, np.int64), None
    left = right = 0
    if stage is not None and stage.is_shift_only:
        shift = stage.shift.astype(np.int64)
        offset = offset + np.where(shift > 0, 1 << np.maximum(shift - 1, 0), 0)
        left = max(-int(shift.min()), 0)
        right = max(int(shift.min()), 0)
        shift = shift + left - right
        shift_bits = max(int(shift.max()).bit_length(), 1)
    elif stage is not None:
        multiplier = stage.multiplier.astype(np.int64)
        shift = np.where(stage.shift < 0, 64 - stage.shift.astype(np.int64), stage.shift)  # bit 6: to the left
        shift_bits = 7
    else:
        shift_bits = 1
    smallest = min(int((sums.low + offset).min()), 0)
    largest = max(int((sums.high + offset).max()), 0)

    def by_place(values: NDArray[np.int64]) -> tuple[int, ...]:
        return tuple(0 if place == EMPTY else int(values[place]) for place in layout)

    return RequantizePlan(
        by_place(offset),
        by_place(shift),
        None if multiplier is None else by_place(multiplier),
        signed_bits(int(offset.min()), int(offset.max())),
        shift_bits,
        left,
        right,
        acc_bits,
        signed_bits(smallest, largest),
        stage is None,
        0 if stage is None else stage.output.q_min,
        0 if stage is None else stage.output.q_max,
    )


def signed_bits(low: int, high: int) -> int:
    """The width of the signed format that holds every integer in [low, high]."""
    return max(max(high, 0).bit_length(), max(-low - 1, 0).bit_length()) + 1


def _foldings(beats: int, lanes: int, channels: int) -> Iterator[Folding]:
    for pack in range(1, beats + 1):
        groups = -(-beats // pack)
        if pack > 1 and -(-beats // (pack - 1)) == groups:
            continue  # as many clocks with fewer multipliers
        for folds in range(1, channels + 1):
            filters = -(-channels // folds)
            if -(-channels // filters) == folds:
                yield Folding(pack * lanes, filters, folds, groups)


def _needed_widths(node: WeightNode) -> NDArray[np.int64]:
    """Signed width by filter that its codes really need."""
    flat = node.weight.reshape(len(node.weight), -1)
    return np.array([signed_bits(int(row.min()), int(row.max())) for row in flat])


def _arrange(weight_bits: NDArray[np.int64], folding: Folding) -> NDArray[np.int64]:
    """Filters by width, the widest first; each array gets ``folds`` neighbours."""
    places = np.full(folding.filters * folding.folds, EMPTY)
    places[: len(weight_bits)] = np.argsort(-weight_bits, kind="stable")
    return places.reshape(folding.filters, folding.folds).T


def _by_array(widths: NDArray[np.int64], channels: NDArray[np.int64]) -> tuple[int, ...]:
    """The largest width of the filters that each array works on."""
    used = np.where(channels == EMPTY, 1, widths[channels])
    return tuple(int(width) for width in used.max(axis=0))


def word_places(source: Stream, folding: Folding) -> NDArray[np.int64]:
    """(groups, inputs): the channel at each place of the words of a pixel, or ``EMPTY``."""
    places = np.full(folding.groups * folding.inputs, EMPTY)
    whole = (folding.groups - 1) * folding.inputs
    places[:whole] = source.layout[:whole]
    places[len(places) - (len(source.layout) - whole) :] = source.layout[whole:]  # `qn_gear` fills words from above
    return places.reshape(folding.groups, folding.inputs)


def _arranged_weights(
    node: WeightNode, source: Stream, folding: Folding, channels: NDArray[np.int64]
) -> NDArray[np.int64]:
    """(depth, filters, inputs): kernel positions of a transposed convolution first, then fold, row, column, group."""
    places = word_places(source, folding).ravel()
    taken = np.where(places == EMPTY, 0, node.weight[:, places].transpose(0, 2, 3, 1))  # (out, kh, kw, place)
    taken = np.where((channels == EMPTY)[..., None, None, None], 0, taken[channels])  # (folds, filters, kh, kw, place)
    folds, filters, height, width, _ = taken.shape
    split = taken.reshape(folds, filters, height, width, folding.groups, folding.inputs)
    order = (2, 3, 0, 4, 1, 5) if isinstance(node, ConvTranspose2d) else (0, 2, 3, 4, 1, 5)
    return split.transpose(order).reshape(-1, filters, folding.inputs).astype(np.int64)
