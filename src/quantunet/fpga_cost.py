"""Resources of the Verilog design, estimated by formula: tables of six inputs, 18-kbit RAMs, multipliers, clocks.

The terms count what the modules of ``backends/verilog/rtl`` are made of; the factors before them were fitted to what
Yosys makes of them (``benchmarks/fpga.py``, which prints the errors). Nothing here imports anything of ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, log2


@dataclass(frozen=True)
class Resources:
    """Look-up tables, flip-flops, block RAMs of 18 kbit, multipliers."""

    lut: float = 0
    ff: float = 0
    bram18: float = 0
    dsp: float = 0

    def __add__(self, other: Resources) -> Resources:
        return Resources(self.lut + other.lut, self.ff + other.ff, self.bram18 + other.bram18, self.dsp + other.dsp)


PARTS = {
    "xc7a35t": Resources(20_800, 41_600, 100, 90),
    "xc7a50t": Resources(32_600, 65_200, 150, 120),
    "xc7a100t": Resources(63_400, 126_800, 270, 240),
    "xc7z020": Resources(53_200, 106_400, 280, 220),
    "xczu3eg": Resources(70_560, 141_120, 432, 360),
}
"""What parts have, from their makers' data sheets: tables, flip-flops, 18-kbit RAMs, multipliers."""

BLOCK_ROM_DEPTH = 65
"""From so many words on a memory of constants goes into block RAM; shallower ones into look-up tables."""
BLOCK_RAM_BITS = 1024
"""Memories of fewer bits than this stay in tables."""


def dot_terms(
    pairs: int, singles: int, activation_bits: int, weight_bits: int, acc_bits: int
) -> tuple[float, float, float, float]:
    """Table bits of one filter: choices between pairs of codes, adders of the tree, adders of planes, accumulator.

    ``singles`` are codes without a partner.
    """
    choices = weight_bits * (pairs * (activation_bits + 1) + singles)  # a single one: the reset of a register
    tree, nodes, level = 0, pairs + singles, 0
    while nodes > 1:
        level += 1
        tree += weight_bits * (nodes // 2) * (activation_bits + level)
        nodes = ceil(nodes / 2)
    joins, groups, span = 0, weight_bits, 1
    while groups > 1:
        joins += (groups // 2) * (activation_bits + 1 + level + span)
        groups, span = ceil(groups / 2), 2 * span
    return choices, tree, joins, acc_bits


def multiply_adders(inputs: int, activation_bits: int, weight_bits: int, acc_bits: int) -> float:
    """Table bits of one filter whose products are made by multipliers: adders of the tree, accumulator."""
    tree, nodes, level = 0, inputs, 0
    while nodes > 1:
        level += 1
        tree += (nodes // 2) * (activation_bits + weight_bits + 1 + level)
        nodes = ceil(nodes / 2)
    return tree + acc_bits


def is_multiplied(inputs: int, activation_bits: int, weight_bits: int, acc_bits: int, dsp_tables: float) -> bool:
    """Whether multipliers that count ``dsp_tables`` tables each are cheaper for a filter than its bit planes."""
    planes = sum(dot_terms(inputs // 2, inputs % 2, activation_bits, weight_bits, acc_bits))
    multiplied = inputs * dsp_tables + multiply_adders(inputs, activation_bits, weight_bits, acc_bits)
    return weight_bits > 1 and multiplied < planes


def rom_bits(depth: int, bits: int) -> float:
    """Bits of a word of a memory of constants that is made of tables; none where it is in block RAM."""
    return 0 if depth >= BLOCK_ROM_DEPTH or depth < 2 else bits


def ram18(depth: int, bits: int, is_rom: bool = False) -> float:
    """Block RAMs of 18 kbit, in the shape that takes fewest; 0 where the memory stays in tables."""
    if depth < BLOCK_ROM_DEPTH if is_rom else depth * bits < BLOCK_RAM_BITS:
        return 0
    shapes = ((512, 36), (1024, 18), (2048, 9), (4096, 4), (8192, 2), (16384, 1))
    return min(ceil(depth / words) * ceil(bits / width) for words, width in shapes)


def counter_tables(*limits: int) -> float:
    """Tables of counters up to each of ``limits``: about one a bit."""
    return sum(max(ceil(log2(max(limit, 2))), 1) for limit in limits)


@dataclass(frozen=True)
class ConvShape:
    """What the formula for a convolution needs to know.

    Args:
        places: codes that a word has room for; ``activation_bits`` each.
        inputs: codes among them that weights multiply.
        pairs: neighbours among them, whose sum all filters share.
        weight_bits, acc_bits: of each of the filters that work at a time.
        depth: words of the weight memory.
        ring_rows, ring_columns: words that the window keeps.
        lanes: codes of a beat of the output, ``out_bits`` each; ``beats`` of them an output pixel.
        entry_bits: of one lane's table of biases and shifts; sum_bits, shift_bits: of its adder and shifter.
        counters: limits of the window's counters.
        multiplied: of each of the filters, whether multipliers make its products.
    """

    places: int
    inputs: int
    pairs: int
    activation_bits: int
    weight_bits: tuple[int, ...]
    acc_bits: tuple[int, ...]
    depth: int
    ring_rows: int
    ring_columns: int
    lanes: int
    out_bits: int
    beats: int
    entry_bits: int
    sum_bits: int
    shift_bits: int
    multiplies: bool
    counters: tuple[int, ...]
    multiplied: tuple[bool, ...]


def conv_terms(shape: ConvShape) -> dict[str, float]:
    """What a convolution is made of, in table bits: ``FACTORS`` makes look-up tables of them."""
    arrays = tuple(zip(shape.weight_bits, shape.acc_bits, shape.multiplied, strict=True))
    places = (shape.pairs, shape.inputs - 2 * shape.pairs, shape.activation_bits)
    each = [dot_terms(*places, *widths) for *widths, multiplied in arrays if not multiplied]
    trees = [multiply_adders(shape.inputs, shape.activation_bits, *widths) for *widths, yes in arrays if yes]
    filters, acc = len(shape.weight_bits), max(shape.acc_bits)
    choices = -(-filters // shape.lanes) - 1
    return {
        "products": sum(sum(terms) for terms in each) + sum(trees) + shape.pairs * (shape.activation_bits + 1),
        "memories": rom_bits(shape.depth, sum(shape.weight_bits) * shape.inputs)
        + rom_bits(shape.beats, shape.lanes * shape.entry_bits),
        "counters": counter_tables(*shape.counters),
        "serializer": shape.lanes * ceil(choices / 3) * acc,
        "requantize": shape.lanes * (shape.sum_bits * (1 + ceil(shape.shift_bits / 2)) + 2 * shape.out_bits),
        "multiplier": 40 * shape.lanes * shape.sum_bits if shape.multiplies else 0,
    }


def conv_tables(shape: ConvShape) -> dict[str, float]:
    """Look-up tables of a convolution by what they do."""
    return {name: FACTORS[name] * value for name, value in conv_terms(shape).items()}


def conv_resources(shape: ConvShape) -> Resources:
    """Everything that a convolution takes."""
    ring = 1 << max(shape.ring_columns - 1, 0).bit_length()
    weights = sum(shape.weight_bits) * shape.inputs
    bram = (
        ram18(shape.ring_rows * ring, shape.places * shape.activation_bits)
        + ram18(shape.depth, weights, is_rom=True)
        + ram18(shape.beats, shape.lanes * shape.entry_bits, is_rom=True)
    )
    tables = sum(conv_tables(shape).values())
    return Resources(tables, FF_PER_LUT * tables, bram, shape.inputs * sum(shape.multiplied))


def queue_tables(depth: int, bits: float) -> float:
    """Tables of a queue that stays in tables: 4 for each 6 bits of 32 words; and its pointers."""
    return 4 * ceil(bits / 6) * ceil(depth / 32) + 10


def fifo_resources(depth: int, bits: int) -> Resources:
    """A queue of a skip: memory and pointers."""
    bram = ram18(depth, bits)
    if not bram:
        return Resources(queue_tables(depth, bits), 2 * bits)
    return Resources(FIFO + PER_FIFO_BIT * counter_tables(depth), 3 * counter_tables(depth), bram)


def resize_resources(memory_words: int, bits: int, counters: tuple[int, ...]) -> Resources:
    """Pooling or nearest up-sampling: a memory of rows, counters, comparisons."""
    return Resources(RESIZE + PER_COUNTER * counter_tables(*counters) + bits, 25, ram18(memory_words, bits))


FACTORS = {
    "products": 0.99,
    "memories": 1.06,
    "counters": 2.8,
    "serializer": 2.29,
    "requantize": 0.54,
    "multiplier": 1.0,
}
"""Look-up tables by unit of each term of a convolution, fitted to Yosys: `benchmarks/fpga.py`."""
PER_COUNTER = 2.0
FIFO = 10.0
PER_FIFO_BIT = 4.0
RESIZE = 5.0
FF_PER_LUT = 1.25
