"""A C project for a microcontroller: firmware that runs recorded images under QEMU, in the memory of a real part."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quantunet.backends.c.build import runtime_files
from quantunet.backends.c.layout import CModel, check_recorded, lay_out
from quantunet.backends.c.model_source import model_header, model_source, tiling_header
from quantunet.backends.c.pack import tensor_bytes
from quantunet.backends.c.plan import SMALL, Tiling
from quantunet.backends.mcu.board import (
    FIRMWARE,
    STACK_BYTES,
    Budget,
    board_files,
    linker_script,
    makefile,
    mask_checksum,
    recorded_header,
    recorded_source,
)
from quantunet.backends.mcu.instructions import instructions
from quantunet.backends.mcu.qemu import build_firmware, has_tools, section_bytes
from quantunet.backends.mcu.targets import CTarget
from quantunet.backends.project_folder import write_project
from quantunet.ir import interpreter
from quantunet.ir.graph import GraphError, IntegerGraph

PRODUCTS = (FIRMWARE, "firmware.map", "trace.bin", "*.o")
Codes = NDArray[np.integer]


@dataclass(frozen=True)
class Fit:
    """Memory that firmware takes, in bytes, beside its budget.

    Args:
        flash_bytes: of the linked firmware, the test program left out; None without compiler.
        ram_bytes: arena, scratch, image, mask and the reserved stack.
    """

    budget: Budget
    flash_bytes: int | None
    ram_bytes: int
    advice: str

    @property
    def fits(self) -> bool:
        """Whether both are within the budget, as far as they are known."""
        return self.ram_bytes <= self.budget.ram_bytes and (self.flash_bytes or 0) <= self.budget.flash_bytes

    def __str__(self) -> str:
        """One line for the user."""
        flash = "flash unknown (no compiler)" if self.flash_bytes is None else f"flash {self.flash_bytes:,}"
        numbers = (
            f"{flash} of {self.budget.flash_bytes:,} bytes, RAM {self.ram_bytes:,} of {self.budget.ram_bytes:,} bytes"
        )
        verdict = "fits" if self.fits else "does NOT fit"
        return f"{self.budget.target.name}: {verdict}: {numbers}{self.advice}"


BANDS_PIXELS = (None, 4096, 1024, 512, 256, 128, 64, 32, 1)
"""From the fastest to the smallest: see ``Tiling``."""
WINOGRAD_BYTES = tuple(kib * 1024 for kib in (128, 64, 32, 16, 8))


def lay_out_for(graph: IntegerGraph, height: int, width: int, budget: Budget) -> CModel:
    """The model as the target of ``budget`` runs it: the fastest that fits its RAM, else the smallest of all."""
    models = plans(graph, height, width, budget.target)
    fitting = [model for model in models if ram_bytes(model) <= budget.ram_bytes]
    return fitting[0] if fitting else min(models, key=ram_bytes)


def plans(graph: IntegerGraph, height: int, width: int, target: CTarget) -> list[CModel]:
    """The plans worth having, the fastest first: each takes less RAM than those before it.

    Larger bands expand packed weights less often and keep more rows; larger blocks of transformed weights transform the
    inputs less often; packed tensors take more instructions; Winograd has scratch of its own. With Winograd a formula
    tells which is faster (``instructions``), without it the order of ``_tilings``.
    """
    models = [lay_out(graph, height, width, tiling, kernel=target.kernel) for tiling in _tilings(target)]
    if target.kernel.tiling.winograd:
        models.sort(key=lambda model: (instructions(model), ram_bytes(model)))
    kept: list[CModel] = []
    for model in models:
        if not kept or ram_bytes(model) < ram_bytes(kept[-1]):
            kept.append(model)
    return kept


def trade_off(graph: IntegerGraph, height: int, width: int, target: CTarget) -> str:
    """A table of the plans: RAM against instructions; the latter by formula, so for targets with Winograd alone."""
    lines = ["| RAM, bytes | million instructions, by formula | rows at a time | KiB of weights | packed tensors |"]
    lines.append("|---|---|---|---|---|")
    for model in plans(graph, height, width, target):
        tiling, plan = model.tiling, model.plan
        millions = f"{instructions(model) / 1e6:.1f}" if target.kernel.tiling.winograd else "-"
        rows = f"of {tiling.band_pixels} pixels" if plan.by_rows else "all"
        kib = str(tiling.winograd_bytes // 1024) if plan.by_winograd else "-"
        lines.append(f"| {ram_bytes(model):,} | {millions} | {rows} | {kib} | {len(plan.packed) or '-'} |")
    return "\n".join(lines) + "\n"


def _tilings(target: CTarget) -> list[Tiling]:
    """All that are tried; without Winograd the fastest first."""
    tiling = target.kernel.tiling
    if not tiling.winograd:
        choices = [replace(tiling, band_pixels=band) for band in BANDS_PIXELS]
        return [*choices, replace(choices[-1], filters=min(tiling.filters, SMALL.filters))]
    return [
        *(
            replace(tiling, band_pixels=band, winograd_bytes=size_bytes, packed=packed)
            for band in BANDS_PIXELS
            for size_bytes in WINOGRAD_BYTES
            for packed in (False, True)
        ),
        *(
            replace(tiling, band_pixels=1, winograd=False, filters=filters)
            for filters in (tiling.filters, min(tiling.filters, SMALL.filters))
        ),
    ]


def export_mcu(
    graph: IntegerGraph, out_dir: str | Path, size_px: tuple[int, int], budget: Budget, recorded: Sequence[Codes] = ()
) -> Path:
    """Write the project for images of ``size_px`` (height, width); all of it or nothing. Returns ``out_dir``.

    Args:
        recorded: input codes (c, h, w) that the firmware runs.

    Raises:
        UserError: if the size does not fit the graph, an input does not fit the size, or ``out_dir`` holds other files.
    """
    files = mcu_files(lay_out_for(graph, *size_px, budget), budget, recorded)
    return write_project(out_dir, files, products=PRODUCTS)


def mcu_files(model: CModel, budget: Budget, recorded: Sequence[Codes] = ()) -> dict[str, str]:
    """Every file of the project, by path.

    Raises:
        UserError: if a recorded input does not fit the model.
    """
    check_recorded(model, recorded)
    masks = [interpreter.run(model.graph, codes[None])[0] for codes in recorded]
    return {
        **runtime_files(model.kernel),
        **board_files(budget.target),
        "qn_tiling.h": tiling_header(model.tiling),
        "model.h": model_header(model),
        "model.c": model_source(model),
        "board/recorded.h": recorded_header(model),
        "board/recorded.c": recorded_source(model, recorded, masks),
        "linker.ld": linker_script(budget),
        "Makefile": makefile(budget),
        "README.md": _readme(model, budget, [mask_checksum(mask) for mask in masks]),
    }


def ram_bytes(model: CModel) -> int:
    """Arena, scratch, image, mask and stack of the firmware; the linker may add a few bytes to align them."""
    formats, shapes = model.graph.formats(), model.graph.shapes(model.height, model.width)
    ends = (model.graph.input.name, model.graph.output.name)
    outside = sum(tensor_bytes(shapes[name], formats[name]) for name in ends)
    return model.plan.arena_bytes + model.plan.scratch_bytes + outside + STACK_BYTES


def fit(model: CModel, budget: Budget) -> Fit:
    """What the firmware takes beside its budget: linked for real where the compiler is there."""
    flash, ram = None, ram_bytes(model)
    if has_tools(budget.target, emulator=False):
        board = budget.target.board
        whole = Budget(budget.target, board.flash.size_bytes, board.ram.size_bytes)
        if ram <= board.ram.size_bytes * 15 // 16:
            with tempfile.TemporaryDirectory(prefix="quantunet-fit-") as folder:
                firmware = build_firmware(Path(folder), mcu_files(model, whole))
                flash, ram = section_bytes(firmware, budget.target)
    draft = Fit(budget, flash, ram, "")
    return draft if draft.fits else Fit(budget, flash, ram, _advice(model, draft))


def _advice(model: CModel, draft: Fit) -> str:
    budget = draft.budget
    limits = f"flash={budget.flash_bytes // 1024}KiB ram={budget.ram_bytes // 1024}KiB"
    ways = []
    if draft.ram_bytes > budget.ram_bytes:
        smaller = _largest_that_fits(model, budget)
        ways.append(f"export --size {smaller[0]}x{smaller[1]}" if smaller else "no image size fits in this RAM")
    ways.append(f'train --budget "{limits}"')
    ways.append("a larger part with --flash and --ram")
    return "; what helps: " + ", or ".join(ways)


def _largest_that_fits(model: CModel, budget: Budget) -> tuple[int, int] | None:
    """The largest image of about the same proportions whose RAM fits."""
    multiple, steps = model.graph.size_multiple(), model.width // model.graph.size_multiple()
    smallest = plans(model.graph, model.height, model.width, budget.target)[-1].tiling
    for step in range(steps - 1, 0, -1):
        height = max(1, round(model.height * step / steps / multiple)) * multiple
        try:
            smaller = lay_out(model.graph, height, step * multiple, smallest, kernel=budget.target.kernel)
        except GraphError:
            continue
        if ram_bytes(smaller) <= budget.ram_bytes:
            return height, step * multiple
    return None


def _readme(model: CModel, budget: Budget, checksums: Sequence[int]) -> str:
    target, plan = budget.target, model.plan
    return f"""# A segmentation model for {target.name}, written by quantunet

Integer arithmetic only: no floating point, no heap, no libm. Research use; not a medical device.

`make` links `{FIRMWARE}` with `{target.cross}gcc`; `make run` runs it on QEMU's `{target.board.machine}`
(Debian: `{target.packages}`). It runs {len(checksums)} recorded images, compares every pixel
with the reference, and prints checksum, stack, instructions by layer, and flash by section.
Checksums of the masks: {", ".join(map(str, checksums)) or "none"}.

| memory | bytes |
|---|---|
| flash that the linker allows | {budget.flash_bytes} |
| RAM that the linker allows | {budget.ram_bytes} |
| activations, static arena | {plan.arena_bytes} |
| scratch of the kernels | {plan.scratch_bytes} |
| stack, reserved | {STACK_BYTES} |

The budget is the linker script's, by default that of {target.part}; the board that QEMU
emulates has more. Test program and recorded images lie in memory of their own and count as neither flash nor RAM.
Instructions are counted, cycles are not modelled. To use the model in a program of yours, take
`model.*` and `qn_*` and leave `board/`: see `model.h`.
"""
