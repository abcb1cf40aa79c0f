"""The proof that firmware under QEMU equals the interpreter: every code of every tensor, of one graph or of many."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quantunet.backends.c.build import runtime_files
from quantunet.backends.c.layout import CModel, code_dtype, lay_out, read_tensor, stored_tensors
from quantunet.backends.c.model_source import model_header, model_source, tiling_header
from quantunet.backends.c.plan import Tiling
from quantunet.backends.c.verify import Proof
from quantunet.backends.mcu.board import Budget, board_files, linker_script, makefile
from quantunet.backends.mcu.project import lay_out_for
from quantunet.backends.mcu.qemu import FirmwareError, build_firmware, require_tools, run_firmware
from quantunet.backends.mcu.targets import CTarget
from quantunet.errors import UserError
from quantunet.ir import interpreter
from quantunet.ir.graph import IntegerGraph

Codes = NDArray[np.integer]
Case = tuple[CModel, Sequence[Codes]]
HEAD_WORDS = 3
"""Before each row in trace.bin: its node, where it lies in the tensor, and its bytes."""


def verify_mcu(
    graphs: Iterable[tuple[IntegerGraph, Sequence[Codes]]], target: CTarget, tiling: Tiling | None = None
) -> Proof:
    """Run every graph's input codes (c, h, w), all of one size, in one firmware, and compare every stored tensor.

    Raises:
        UserError: if compiler or emulator are absent, or the emulated board has too little memory.
        FirmwareError: if the firmware crashes.
    """
    require_tools(target)
    cases: list[Case] = []
    for index, (graph, images) in enumerate(graphs):
        height, width = images[0].shape[1:]
        cases.append((lay_out(graph, height, width, tiling, f"m{index}", target.kernel), images))
    return _verify(cases, target)


def verify_images(graph: IntegerGraph, images: Sequence[Codes], budget: Budget) -> Proof:
    """One graph on images (c, h, w) whose sizes may differ, under the plans that ``budget`` is exported with.

    Raises:
        UserError, FirmwareError: as ``verify_mcu`` does.
    """
    target = budget.target
    require_tools(target)
    sizes: dict[tuple[int, int], list[Codes]] = {}
    for image in images:
        height, width = image.shape[1:]
        _check_memory(_image_and_mask_bytes(graph, height, width), target)
        sizes.setdefault((height, width), []).append(image)
    cases: list[Case] = []
    for index, ((height, width), group) in enumerate(sizes.items()):
        tiling = lay_out_for(graph, height, width, budget).tiling
        cases.append((lay_out(graph, height, width, tiling, f"m{index}", target.kernel), group))
    return _verify(cases, target)


def _verify(cases: Sequence[Case], target: CTarget) -> Proof:
    models = [model for model, _ in cases]
    needed = sum(model.plan.arena_bytes + model.plan.scratch_bytes for model in models)
    needed += max(_image_and_mask_bytes(model.graph, model.height, model.width) for model in models)
    _check_memory(needed, target)
    compared = differing = 0
    first, names = "", set()
    with tempfile.TemporaryDirectory(prefix="quantunet-verify-") as name:
        folder = Path(name)
        build_firmware(folder, _files(cases, target))
        (folder / "input.bin").write_bytes(
            b"".join(_image_bytes(model, image) for model, images in cases for image in images)
        )
        run_firmware(folder)
        trace = (folder / "trace.bin").read_bytes()
    offset = 0
    for model, images in cases:
        for image in images:
            expected = interpreter.trace(model.graph, image[None])
            offset, tensors = _read_image(model, trace, offset)
            for tensor, values in tensors.items():
                wrong = int(np.count_nonzero(values != expected[tensor][0]))
                compared, differing = compared + values.size, differing + wrong
                first = first or (tensor if wrong else "")
                names.add((model.prefix, tensor))
    if offset != len(trace):
        raise FirmwareError(f"the firmware wrote {len(trace)} bytes of tensors, not {offset}")
    arena_bytes = max(model.plan.arena_bytes for model, _ in cases)
    return Proof(f"c {target.name}", len(names), compared, differing, arena_bytes, sum(len(i) for _, i in cases), first)


def _image_and_mask_bytes(graph: IntegerGraph, height: int, width: int) -> int:
    return height * width * (8 * graph.input.channels + 4)


def _check_memory(needed: int, target: CTarget) -> None:
    if needed > target.board.ram.size_bytes * 7 // 8:
        raise UserError(
            f"{needed:,} bytes of tensors do not fit on {target.board.machine}, which has "
            f"{target.board.ram.size_bytes:,}: verify smaller images with --size"
        )


def _files(cases: Sequence[Case], target: CTarget) -> dict[str, str]:
    board = target.board
    budget = Budget(target, board.flash.size_bytes, board.ram.size_bytes)
    models = [model for model, _ in cases]
    texts = {f"{model.prefix}.h": model_header(model) for model in models}
    texts |= {f"{model.prefix}.c": model_source(model, f"{model.prefix}.h") for model in models}
    return {
        **runtime_files(target.kernel),
        **board_files(target),
        **texts,
        "qn_tiling.h": tiling_header(models[0].tiling),
        "board/main.c": _main_source(cases),
        "linker.ld": linker_script(budget),
        "Makefile": makefile(budget, [f"{model.prefix}.c" for model in models], ("main.c", "board_host.c")),
    }


def _main_source(cases: Sequence[Case]) -> str:
    """A program that reads images from input.bin and writes every stored tensor to trace.bin."""
    runs, sizes = [], []
    for model, images in cases:
        image_bytes, mask_bytes = len(_image_bytes(model, images[0])), stored_tensors(model)[model.graph.output.name]
        sizes += [image_bytes, mask_bytes]
        runs.append(
            f"    for (int k = 0; k < {len(images)}; k++) {{\n"
            f"        board_input_read(image, {image_bytes});\n"
            f"        if ({model.prefix}_run((const void *)image, (void *)mask) != 0) {{\n"
            "            return 1;\n        }\n    }\n"
        )
    headers = "".join(f'#include "{model.prefix}.h"\n' for model, _ in cases)
    return f"""#include "board.h"
{headers}
void main_trace(int32_t node, size_t offset, const uint8_t *codes, size_t size_bytes);

__attribute__((section(".caller"))) static int32_t image[{max(sizes) // 4 + 1}], mask[{max(sizes) // 4 + 1}];

void main_trace(int32_t node, size_t offset, const uint8_t *codes, size_t size_bytes)
{{
    const uint32_t head[3] = {{(uint32_t)node, (uint32_t)offset, (uint32_t)size_bytes}};

    board_trace_write(head, sizeof head);
    board_trace_write(codes, size_bytes);
}}

int main(void)
{{
{"".join(runs)}    return 0;
}}
"""


def _image_bytes(model: CModel, image: Codes) -> bytes:
    return image.transpose(1, 2, 0).astype(code_dtype(model.graph.input.output)).tobytes()


def _read_image(model: CModel, trace: bytes, offset: int) -> tuple[int, dict[str, Codes]]:
    """The tensors (c, h, w) of one run, the image itself left out, and where the next run begins."""
    sizes = stored_tensors(model)
    parts = {name: bytearray(size_bytes) for name, size_bytes in sizes.items()}
    left = dict(sizes)
    while any(left.values()):
        head = np.frombuffer(trace, np.uint32, min(HEAD_WORDS, (len(trace) - offset) // 4), offset).tolist()
        if len(head) < HEAD_WORDS:
            raise FirmwareError(f"the firmware did not write {sorted(name for name in left if left[name])} whole")
        node, start, size_bytes = head
        offset += 4 * HEAD_WORDS
        name = model.graph.nodes[node].name
        parts[name][start : start + size_bytes] = trace[offset : offset + size_bytes]
        left[name] -= size_bytes
        offset += size_bytes
    tensors = {name: read_tensor(model, name, bytes(content)) for name, content in parts.items()}
    del tensors[model.graph.input.name]
    return offset, tensors
