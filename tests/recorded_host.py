"""The host engine on another processor: calls of its C library are recorded, run there by a program, and given back.

``HostEngine`` prepares and calls a ``Recorder`` in the place of its library, twice: at first it writes down what C
would be given; when a program has run all of it at once, the same calls in the same order receive what it computed.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from quantunet.backends.c.build import host_files, write_files
from quantunet.backends.c.model_source import tiling_header
from quantunet.backends.c.plan import FAST
from quantunet.backends.host import engine as host_engine
from quantunet.backends.host.library import CConv, CHostConv, CProgram, CRequantize, CStep, CTensor

SOURCE = Path(__file__).parent / "c" / "host_cases.c"
WARNINGS = ("-std=c11", "-pedantic", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-pthread")
STORAGE_BYTES = (1, 1, 2, 2, 4)
NAME_BYTES, ALIGNMENT_BYTES = 16, 16


class CCase(ctypes.Structure):
    """``qn_case`` of ``host_cases.c``."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("kernel", "convs", "image")),
        *((name, ctypes.c_int64) for name in ("conv_count", "mask_bytes", "threads", "times")),
        ("program", CProgram),
    )


class Block:
    """Bytes in which pointers count from the start."""

    def __init__(self) -> None:
        self.data, self.pointers = bytearray(), []

    def add(self, data: bytes) -> int:
        """Append ``data``; where it lies."""
        self.data += bytes(-len(self.data) % ALIGNMENT_BYTES)
        self.data += data
        return len(self.data) - len(data)

    def point(self, at: int, target: int) -> None:
        """Let the pointer at ``at`` be ``target``."""
        self.data[at : at + 8] = target.to_bytes(8, "little")
        self.pointers.append(at)

    def packed(self) -> bytes:
        """The block as the program reads it."""
        sizes = np.array([len(self.data), len(self.pointers), *self.pointers], np.int64).tobytes()
        return sizes[:16] + self.data + sizes[16:]


class Recorder:
    """Stands in for the library of the host engine.

    Args:
        times: how often the program runs each call.
        steps: how many steps of each, from the first on; None: all.
    """

    def __init__(self, times: int = 1, steps: int | None = None) -> None:
        self.sizes: dict[int, int] = {}
        self._times, self._steps = times, steps
        self._layers: list[tuple[CHostConv, bytes | None]] = []
        self._names: list[str] = []
        self._cases: list[tuple[Block, list[int], int, int]] = []
        self._results: list[tuple[bytes, bytes]] | None = None
        self._next = 0

    def qn_host_layer_new(self, conv: Any, kernel: bytes | None) -> int:
        self._layers.append((conv._obj, kernel))
        return len(self._layers)

    def qn_host_layer_free(self, layer: int) -> None: ...

    def qn_host_layer_kernel(self, layer: int) -> bytes:
        return self._names[layer - 1].encode()

    def qn_host_layer_bytes(self, layer: int) -> int:
        return 0

    def qn_host_scratch_bytes(self, program: Any) -> int:
        return 0

    def qn_host_run(self, program: Any, memory: int, image: int, mask: int, threads: int) -> None:
        if self._results is None:
            self._cases.append(self._case(program._obj, image, threads))
            return
        found_mask, arena = self._results[self._next]
        ctypes.memmove(mask, found_mask, len(found_mask))
        ctypes.memmove(memory, arena, len(arena))
        self._next += 1

    def execute(self, command: Sequence[str | Path], folder: Path) -> str:
        """Run all calls by a program; from now on they are answered. Gives what it wrote to its error stream.

        The program gets no environment and short arguments, whose lengths move its stack, and with it the alignment of
        what is copied: instructions are counted.
        """
        calls, results = folder / "calls", folder / "results"
        calls.write_bytes(b"".join(block.packed() for block, *_ in self._cases))
        emulator = shutil.which(command[0]) or command[0]
        line = [emulator, *command[1:], calls.name, results.name]
        done = subprocess.run(line, cwd=folder, env={}, capture_output=True, text=True)
        assert done.returncode == 0, (done.returncode, done.stderr)
        data, at = results.read_bytes(), 0
        self._names, self._results = [""] * len(self._layers), []
        for _, layers, mask_bytes, arena_bytes in self._cases:
            for layer in layers:
                self._names[layer - 1] = data[at : at + NAME_BYTES].rstrip(b"\0").decode()
                at += NAME_BYTES
            self._results.append((data[at : at + mask_bytes], data[at + mask_bytes : at + mask_bytes + arena_bytes]))
            at += mask_bytes + arena_bytes
        assert at == len(data)
        self._layers, self._next = [], 0
        return done.stderr

    def _case(self, program: CProgram, image: int, threads: int) -> tuple[Block, list[int], int, int]:
        block = Block()
        at = block.add(bytes(ctypes.sizeof(CCase)))
        steps = (CStep * program.step_count).from_address(program.steps)
        count = 1 + max(max(*step.source, step.target, step.pooled) for step in steps)
        tensors = (CTensor * count).from_address(program.tensors)
        whole = {tensor.offset: _tensor_bytes(tensor) for tensor in tensors}
        layers = [step.layer for step in steps if step.layer]
        kernel = self._layers[layers[0] - 1][1] if layers else None
        case = CCase(None, None, None, len(layers), whole[host_engine.AT_MASK], threads, self._times, program)
        case.program.step_count = min(self._steps or program.step_count, program.step_count)
        block.data[at : at + ctypes.sizeof(case)] = bytes(case)
        if kernel is not None:
            block.point(at + CCase.kernel.offset, block.add(kernel + b"\0"))
        block.point(at + CCase.image.offset, block.add(ctypes.string_at(image, whole[host_engine.AT_IMAGE])))
        block.point(at + CCase.convs.offset, self._convs(block, layers))
        block.point(at + CCase.program.offset + CProgram.tensors.offset, block.add(bytes(tensors)))
        block.point(at + CCase.program.offset + CProgram.steps.offset, self._step_array(block, steps, layers))
        return block, layers, case.mask_bytes, program.arena_bytes

    def _convs(self, block: Block, layers: list[int]) -> int:
        convs = [self._layers[layer - 1][0] for layer in layers]
        first = block.add(b"".join(map(bytes, convs)))
        for k, conv in enumerate(convs):
            at = first + k * ctypes.sizeof(CHostConv)
            block.point(at + CHostConv.weight.offset, block.add(conv.weight_array.tobytes()))
            self._array(block, at + CHostConv.bias.offset, conv.bias)
            self._requantize(block, at + CHostConv.requantize.offset, conv.requantize)
        return first

    def _step_array(self, block: Block, steps: Any, layers: list[int]) -> int:
        first = block.add(bytes(steps))
        for k, step in enumerate(steps):
            at = first + k * ctypes.sizeof(CStep)
            if step.layer:
                index = 1 + layers.index(step.layer)
                block.data[at + CStep.layer.offset : at + CStep.layer.offset + 8] = index.to_bytes(8, "little")
            if step.requantize:
                self._requantize_pointer(block, at + CStep.requantize.offset, step.requantize)
            if step.conv:
                conv = CConv.from_address(step.conv)
                conv_at = block.add(bytes(conv))
                block.point(at + CStep.conv.offset, conv_at)
                for name in ("weight", "bit_width", "bias"):
                    self._array(block, conv_at + getattr(CConv, name).offset, getattr(conv, name))
                if conv.requantize:
                    self._requantize_pointer(block, conv_at + CConv.requantize.offset, conv.requantize)
        return first

    def _requantize_pointer(self, block: Block, at: int, address: int) -> None:
        stage = CRequantize.from_address(address)
        target = block.add(bytes(stage))
        block.point(at, target)
        self._requantize(block, target, stage)

    def _requantize(self, block: Block, at: int, stage: CRequantize) -> None:
        self._array(block, at + CRequantize.multiplier.offset, stage.multiplier)
        self._array(block, at + CRequantize.shift.offset, stage.shift)

    def _array(self, block: Block, at: int, address: int | None) -> None:
        if address:
            block.point(at, block.add(ctypes.string_at(address, self.sizes[address])))


class RecordedEngine(host_engine.HostEngine):
    """A host engine whose library is a recorder."""

    def __init__(self, recorder: Recorder, *arguments: Any, **options: Any) -> None:
        self._recorder = recorder
        opened = host_engine.open_library
        host_engine.open_library = lambda path: recorder
        try:
            super().__init__(*arguments, library=Path("recorded"), **options)
        finally:
            host_engine.open_library = opened

    def _array(self, values: Any, dtype: Any) -> int:
        address = super()._array(values, dtype)
        self._recorder.sizes[address] = self._kept[-1].nbytes
        return address


def _tensor_bytes(tensor: CTensor) -> int:
    return tensor.channels * tensor.height * tensor.width * STORAGE_BYTES[tensor.storage]


def build(folder: Path, compiler: str, flags: Sequence[str]) -> Path:
    """The program that runs recorded calls, with every warning an error; its objects stay beside it."""
    files = {**host_files(), "qn_tiling.h": tiling_header(FAST), SOURCE.name: SOURCE.read_text()}
    write_files(folder, files)
    sources = [name for name in files if name.endswith(".c")]
    objects = [f"{name[:-2]}.o" for name in sources]
    subprocess.run([compiler, *WARNINGS, *flags, "-c", *sources], cwd=folder, check=True)
    subprocess.run([compiler, *flags, "-static", "-pthread", *objects, "-o", "program"], cwd=folder, check=True)
    return folder / "program"
