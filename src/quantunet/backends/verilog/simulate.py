"""The proof that a Verilog design equals the interpreter: every beat of every stream, random back-pressure."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quantunet.backends.verilog.bench import bench_text
from quantunet.backends.verilog.plan import Plan
from quantunet.backends.verilog.stream import EMPTY
from quantunet.backends.verilog.tools import find_verilator, library_files, run_tool
from quantunet.backends.verilog.top import TOP, design_text, lane_bytes, traced
from quantunet.ir import interpreter
from quantunet.ir.graph import IntegerGraph

Codes = NDArray[np.integer]
SIMULATION_SECONDS = 7200
QUIET = ("-Wno-fatal", "-Wno-WIDTH", "-Wno-UNOPTFLAT", "-Wno-CASEINCOMPLETE")


class SimulationError(RuntimeError):
    """The simulated design stood still or gave the wrong number of beats: our fault."""


@dataclass(frozen=True)
class Simulation:
    """What a simulated run gave.

    Args:
        tensors: by name, (n, c, h, w), every stream that was traced.
        frame_ends: clock of each image's last mask pixel.
        clocks: of the whole run.
    """

    tensors: Mapping[str, NDArray[np.int64]]
    frame_ends: tuple[int, ...]
    clocks: int

    @property
    def clocks_per_frame(self) -> int:
        """Clocks between the last two masks; of one image alone, from reset to its end."""
        ends = (0, *self.frame_ends) if len(self.frame_ends) == 1 else self.frame_ends
        return ends[-1] - ends[-2]


@dataclass(frozen=True)
class VerilogProof:
    """What was compared with the interpreter, in which simulated time.

    Args:
        tensors: kinds of streams, the input not counted; ``compared``, ``differing``: codes.
        clocks_per_frame: at full speed, between two masks.
        stalled_clocks: of the run with random back-pressure, all images.
    """

    backend: str
    tensors: int
    compared: int
    differing: int
    images: int
    clocks_per_frame: int
    planned_clocks: int
    stalled_clocks: int
    first_difference: str = ""


def input_bytes(plan: Plan, images: Sequence[Codes]) -> bytes:
    """``in.bin`` of images (c, h, w): pixels row by row, every place of the input stream in whole bytes."""
    source = plan.streams[plan.graph.input.name]
    frames = []
    for codes in images:
        places = np.zeros((len(source.layout), *codes.shape[1:]), np.int64)
        for place, channel in enumerate(source.layout):
            if channel != EMPTY:
                places[place] = codes[channel]
        frames.append(places.transpose(1, 2, 0).astype(f"<i{lane_bytes(plan)}").tobytes())
    return b"".join(frames)


class Simulator:
    """A design compiled by Verilator, in a folder of its own; ``optimization`` of the C++ compiler."""

    def __init__(self, plan: Plan, folder: Path, optimization: str = "-O1") -> None:
        self.plan, self.program = plan, folder / "obj" / "simulate"
        for name, text in (library_files() | {"design.v": design_text(plan), "main.cpp": bench_text(plan)}).items():
            (folder / name).write_text(text, encoding="utf-8", newline="\n")
        sources = [*library_files(), "design.v"]
        command = [
            *find_verilator(),
            "--cc",
            "--exe",
            "--build",
            "-O3",
            "--x-initial",
            "unique",
            "--x-assign",
            "unique",
        ]
        command += [
            "--Mdir",
            "obj",
            "-MAKEFLAGS",
            f"PYTHON3={sys.executable}",
            "-DQN_TRACE",
            *QUIET,
            "--top-module",
            TOP,
            "-CFLAGS",
            f"-DQN_TRACE {optimization}",
            *sources,
            "main.cpp",
        ]
        run_tool([*command, "-o", "simulate"], folder)

    def run(self, images: Sequence[Codes], seed: int = 0, send: int = 256, take: int = 256) -> Simulation:
        """Simulate ``images`` (c, h, w), one after the other without a pause.

        Args:
            send, take: of 256 clocks, how many offer a beat and how many accept one, at random by ``seed``.

        Raises:
            SimulationError: if the design stands still.
        """
        plan = self.plan
        with tempfile.TemporaryDirectory(prefix="quantunet-simulate-") as name:
            (Path(name) / "in.bin").write_bytes(input_bytes(plan, images))
            done = subprocess.run(
                [self.program, str(len(images)), str(seed), str(send), str(take)],
                cwd=name, capture_output=True, text=True, timeout=SIMULATION_SECONDS,
            )  # fmt: skip
            if done.returncode:
                raise SimulationError(f"the simulated design ended with {done.returncode}: {done.stderr[-1000:]}")
            clocks, *ends = (int(word) for word in done.stdout.split())
            tensors = {
                name_of: self._tensor(name_of, Path(name) / f"t{place}.bin", len(images), bits)
                for place, (name_of, bits) in enumerate(traced(plan).items())
            }
        return Simulation(tensors, tuple(ends), clocks)

    def _tensor(self, name: str, path: Path, images: int, bits: int) -> NDArray[np.int64]:
        """(n, c, h, w) from beats of ``bits`` bits, each in whole 32-bit words."""
        stream, lanes = self.plan.streams[name], self.plan.lanes
        words = np.frombuffer(path.read_bytes(), np.uint32)
        per_beat = -(-bits // 32)
        beats = 1 if bits == stream.bits and lanes > 1 else stream.beats
        lanes = bits // stream.bits
        expected = images * stream.pixels * beats * per_beat
        if len(words) != expected:
            raise SimulationError(f"tensor {name!r}: {len(words)} words were traced, not {expected}")
        unpacked = np.unpackbits(words.reshape(-1, per_beat).view(np.uint8), axis=1, bitorder="little")[:, :bits]
        place = 1 << np.arange(stream.bits, dtype=np.int64)
        if stream.signed:
            place[-1] = -place[-1]
        codes = unpacked.reshape(-1, lanes, stream.bits).astype(np.int64) @ place
        codes = codes.reshape(images, stream.height, stream.width, beats * lanes)
        tensor = np.zeros((images, stream.channels, stream.height, stream.width), np.int64)
        for at, channel in enumerate(stream.layout[: beats * lanes]):
            if channel != EMPTY:
                tensor[:, channel] = codes[..., at]
        return tensor


def verify_plan(
    plan: Plan, images: Sequence[Codes], folder: Path, stalled_images: int = 1, optimization: str = "-O1"
) -> VerilogProof:
    """Simulate ``images`` at full speed, then the first ones with random back-pressure; compare every code.

    Raises:
        ToolMissing: if there is no Verilator.
        SimulationError: if the design stands still.
    """
    simulator = Simulator(plan, folder, optimization)
    expected = {
        name: np.concatenate([interpreter.trace(plan.graph, codes[None])[name] for codes in images])
        for name in traced(plan)
    }
    full = simulator.run(images)
    stalled = simulator.run(images[:stalled_images], seed=1, send=150, take=150)
    compared = differing = 0
    first = ""
    for run in (full, stalled):
        for name, tensor in run.tensors.items():
            wrong = int(np.count_nonzero(tensor != expected[name][: len(tensor)]))
            compared, differing = compared + tensor.size, differing + wrong
            first = first or (name if wrong else "")
    return VerilogProof(
        "verilog", len(expected), compared, differing, len(images), full.clocks_per_frame,
        plan.clocks_per_frame, stalled.clocks, first,
    )  # fmt: skip


def verify_verilog(
    graph: IntegerGraph, inputs: Sequence[Codes], plan_of: Callable[[IntegerGraph, int, int], Plan]
) -> VerilogProof:
    """Simulate the design that ``plan_of(graph, height, width)`` gives for each size among ``inputs`` (c, h, w).

    Raises:
        ToolMissing: if there is no Verilator.
        SimulationError: if a design stands still.
    """
    groups: dict[tuple[int, int], list[Codes]] = {}
    for codes in inputs:
        groups.setdefault((codes.shape[1], codes.shape[2]), []).append(codes)
    proofs = []
    for (height, width), group in groups.items():
        with tempfile.TemporaryDirectory(prefix="quantunet-verilog-") as name:
            proofs.append(verify_plan(plan_of(graph, height, width), group, Path(name)))
    largest = max(proofs, key=lambda proof: proof.clocks_per_frame)
    return replace(
        largest,
        compared=sum(proof.compared for proof in proofs),
        differing=sum(proof.differing for proof in proofs),
        images=sum(proof.images for proof in proofs),
        first_difference=next((proof.first_difference for proof in proofs if proof.first_difference), ""),
    )
