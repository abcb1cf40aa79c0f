"""An integer graph on this machine: one C library for all models, weights prepared once, any size, threads."""

from __future__ import annotations

import ctypes
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantunet.backends.c.layout import code_dtype, storage
from quantunet.backends.c.model_source import packed_weight
from quantunet.backends.c.plan import FAST, filter_block, fused_heads, needs_wide_patches, scratch_of
from quantunet.backends.host.library import (
    MAX_SOURCES,
    CConv,
    CHostConv,
    CProgram,
    CRequantize,
    CStep,
    CTensor,
    Layers,
    build_host_library,
    open_library,
)
from quantunet.backends.host.plan import ALIGNMENT_BYTES, HostPlan, Step, aligned, plan_host, steps, threshold_of
from quantunet.ir.graph import (
    ArgMax,
    Concat,
    Conv2d,
    ConvTranspose2d,
    GraphError,
    IntegerGraph,
    MaxPool2d,
    Requantize,
    Rescale,
    Threshold,
    UpsampleBilinear2d,
    UpsampleNearest2d,
    WeightNode,
)

AT_IMAGE, AT_MASK = -1, -2
STORAGES = ("QN_U8", "QN_S8", "QN_U16", "QN_S16", "QN_S32")
HEADS = {Threshold: 1, ArgMax: 2}
KINDS = ("layer", "conv", MaxPool2d, UpsampleNearest2d, UpsampleBilinear2d, Rescale, Concat, Threshold, ArgMax)
Codes = NDArray[np.integer]


class HostEngine:
    """A graph whose weights are prepared for this machine. Calls from several threads run side by side.

    Args:
        threads: that one call uses; the masks do not depend on it.
        kernel: the name of the kernel of all convolutions that it is exact for; the others, and all for None, take the
            fastest.
        library: another build of the library.

    Raises:
        CompilerMissing: if there is no C compiler.
        GraphError: if the graph ends in no mask.
    """

    def __init__(
        self, graph: IntegerGraph, *, threads: int = 1, kernel: str | None = None, library: Path | None = None
    ) -> None:
        if not isinstance(graph.output, Threshold | ArgMax):
            raise GraphError(f"node {graph.output.name!r} stands last and is no mask: end the graph in one")
        self._graph, self._threads = graph, threads
        self._library = open_library(str(library or build_host_library()))
        self._kept: list[Any] = []  # what C holds pointers to
        self._layers = Layers(self._library)
        self._structs: dict[str, Any] = {}
        self._requantizes: dict[str, CRequantize] = {}
        for step in steps(graph):
            self._prepare(step, kernel)
        self._programs: dict[tuple[int, int, bool], _Sized] = {}
        self._lock = threading.Lock()

    @property
    def kernels(self) -> dict[str, str]:
        """The kernel of every convolution, by the name of its node; "generic" where none fits."""
        return {
            node.name: self._layers.kernel(node.name) if node.name in self._layers.pointers else "generic"
            for node in self._graph.weight_nodes()
        }

    @property
    def weight_bytes(self) -> int:
        """Bytes of the prepared weights."""
        return self._layers.size_bytes

    def memory_bytes(self, height: int, width: int) -> int:
        """Bytes of activations and scratch that one call takes for images of this size."""
        return self._sized(height, width).memory_bytes

    def run(self, codes: Codes) -> Codes:
        """The masks (n, h, w) of input codes (n, c, h, w).

        Raises:
            GraphError: if the codes do not fit the graph's input.
        """
        sized = self._sized(*self._checked(codes).shape[2:])
        masks = np.empty((len(codes), *sized.mask_shape), sized.mask_dtype)
        memory = sized.borrow()
        for image, mask in zip(self._images(codes), masks, strict=True):
            self._call(sized, memory, image, mask)
        sized.give_back(memory)
        return masks

    def trace(self, codes: Codes) -> dict[str, Codes]:
        """Every tensor that is stored, by name, each (n, c, h, w), the mask included and the image not."""
        graph, (height, width) = self._graph, self._checked(codes).shape[2:]
        sized, formats, shapes = self._sized(height, width, True), graph.formats(), graph.shapes(height, width)
        memory, found = sized.borrow(), {name: [] for name in (*sized.plan.offsets, graph.output.name)}
        for image in self._images(codes):
            mask = np.empty(sized.mask_shape, sized.mask_dtype)
            self._call(sized, memory, image, mask)
            for name, offset in sized.plan.offsets.items():
                channels, rows, columns = shapes[name]
                dtype = code_dtype(formats[name])
                size_bytes = channels * rows * columns * dtype.itemsize
                tensor = memory[offset : offset + size_bytes].view(dtype).reshape(rows, columns, channels)
                found[name].append(tensor.transpose(2, 0, 1).copy())
            found[graph.output.name].append(mask[None])
        return {name: np.stack(tensors) for name, tensors in found.items()}

    def _call(self, sized: _Sized, memory: Codes, image: Codes, mask: Codes) -> None:
        self._library.qn_host_run(
            ctypes.byref(sized.program), memory.ctypes.data, image.ctypes.data, mask.ctypes.data, self._threads
        )

    def _checked(self, codes: Codes) -> Codes:
        limits, channels = self._graph.input.output, self._graph.input.channels
        if codes.ndim != 4 or codes.shape[1] != channels:
            raise GraphError(f"input codes of shape {codes.shape} do not fit (n, {channels}, h, w)")
        if codes.size and (codes.min() < limits.q_min or codes.max() > limits.q_max):
            raise GraphError(f"input codes reach {codes.min()}..{codes.max()}, outside the format {limits}")
        return codes

    def _images(self, codes: Codes) -> Codes:
        dtype = code_dtype(self._graph.input.output)
        return np.ascontiguousarray(codes.transpose(0, 2, 3, 1).astype(dtype, copy=False))

    def _sized(self, height: int, width: int, keep_all: bool = False) -> _Sized:
        with self._lock:
            key = (height, width, keep_all)
            if key not in self._programs:
                plan = plan_host(self._graph, height, width, keep_all)
                self._programs[key] = _Sized(self, plan, height, width)
            return self._programs[key]

    def _array(self, values: Any, dtype: Any) -> int:
        array = np.ascontiguousarray(values, dtype)
        self._kept.append(array)
        return array.ctypes.data

    def _requantize(self, stage: Requantize | None) -> CRequantize:
        if stage is None:
            return CRequantize(None, None, 0, 0, 0)
        is_narrow = stage.is_shift_only and bool(np.all((stage.shift >= 0) & (stage.shift <= 31)))
        multiplier = None if stage.is_shift_only else self._array(stage.multiplier, np.int32)
        limits = stage.output
        return CRequantize(multiplier, self._array(stage.shift, np.int8), limits.q_min, limits.q_max, is_narrow)

    def _prepare(self, step: Step, kernel: str | None) -> None:
        node = step.node
        if isinstance(node, UpsampleBilinear2d | Rescale):
            self._structs[node.name] = self._requantize(node.requantize)
        elif isinstance(node, Conv2d | ConvTranspose2d):
            if step.is_prepared:
                self._layers.add(node.name, self._host_conv(step, node), kernel)
            else:
                self._structs[node.name] = self._generic_conv(node)

    def _head(self, node: WeightNode) -> tuple[int, int]:
        mask = self._graph.node(fused_heads(self._graph).get(node.name, node.name))
        return HEADS.get(type(mask), 0), threshold_of(mask) if isinstance(mask, Threshold) else 0

    def _host_conv(self, step: Step, node: WeightNode) -> CHostConv:
        formats, channels = self._graph.formats(), self._graph.channels()
        is_transposed, source = isinstance(node, ConvTranspose2d), formats[node.inputs[0]]
        stride, padding = (2, 0) if isinstance(node, ConvTranspose2d) else (node.stride, node.padding)
        counts = [channels[item.name] for item in step.sources]
        filling = [0] * (MAX_SOURCES - len(counts))
        weight = np.ascontiguousarray(node.weight.transpose(0, 2, 3, 1), np.int8)
        head, threshold = self._head(node)
        conv = CHostConv(
            weight.ctypes.data,
            self._array(node.bias, np.int32),
            self._requantize(node.requantize),
            *(node.weight.shape[0], *node.weight.shape[2:], stride, padding),
            *(is_transposed, source.signed, node.requantize is None or node.requantize.output.signed, len(counts)),
            (ctypes.c_int32 * MAX_SOURCES)(*counts, *filling),
            (ctypes.c_int32 * MAX_SOURCES)(*(item.is_doubled for item in step.sources), *filling),
            max(source.q_max, -source.q_min),
            head,
            threshold,
        )
        conv.weight_array = weight  # lives until the layer is prepared
        return conv

    def _generic_conv(self, node: WeightNode) -> CConv:
        stage = None if node.requantize is None else self._requantize(node.requantize)
        self._kept.append(stage)
        head, threshold = self._head(node)
        geometry = (
            (*node.weight.shape[2:], node.stride, node.padding, 1) if isinstance(node, Conv2d) else (1, 1, 1, 0, 2)
        )
        return CConv(
            self._array(packed_weight(node), np.uint8),
            self._array(node.weight_bit_width, np.uint8),
            self._array(node.bias, np.int32),
            None if stage is None else ctypes.addressof(stage),
            node.weight.shape[0],
            *geometry,
            filter_block(node, head != 0, FAST),
            needs_wide_patches(node, self._graph.formats()[node.inputs[0]]),
            head,
            threshold,
        )


class _Sized:
    """The program of an engine for one image size, and memory for as many calls as run at a time."""

    def __init__(self, engine: HostEngine, plan: HostPlan, height: int, width: int) -> None:
        graph = engine._graph
        formats, shapes = graph.formats(), graph.shapes(height, width)
        names = [graph.input.name, *plan.offsets, graph.output.name]
        index = {name: position for position, name in enumerate(names)}
        offsets = {graph.input.name: AT_IMAGE, **plan.offsets, graph.output.name: AT_MASK}
        self.plan = plan
        self.mask_shape, self.mask_dtype = shapes[graph.output.name][1:], code_dtype(formats[graph.output.name])
        self._tensors = (CTensor * len(names))(
            *(CTensor(offsets[name], STORAGES.index(storage(formats[name])), *shapes[name]) for name in names)
        )
        self._steps = _step_array(engine, plan, index)
        scratch = scratch_of(graph, FAST) if any(_is_generic(step) for step in plan.steps) else None
        sizes = (
            (scratch.filters, scratch.patches, *(4 * n for n in (scratch.wide, scratch.acc, scratch.corrections)))
            if scratch
            else (0,) * 5
        )
        starts = [sum(map(aligned, sizes[:position])) for position in range(6)]
        self.program = CProgram(
            ctypes.addressof(self._tensors),
            ctypes.addressof(self._steps),
            len(self._steps),
            *starts[:5],
            plan.arena_bytes,
            starts[5],
        )
        each = engine._library.qn_host_scratch_bytes(ctypes.byref(self.program))
        self.memory_bytes = aligned(plan.arena_bytes) + starts[5] + engine._threads * each
        self._free: list[Codes] = []

    def borrow(self) -> Codes:
        """Memory for one call, on a multiple of 64 bytes."""
        try:
            return self._free.pop()
        except IndexError:
            whole = np.zeros(self.memory_bytes + ALIGNMENT_BYTES, np.uint8)
            start = -whole.ctypes.data % ALIGNMENT_BYTES
            return whole[start : start + self.memory_bytes]

    def give_back(self, memory: Codes) -> None:
        """Keep memory for the next call."""
        self._free.append(memory)


def _is_generic(step: Step) -> bool:
    return isinstance(step.node, Conv2d | ConvTranspose2d) and not step.is_prepared


def _step_array(engine: HostEngine, plan: HostPlan, index: dict[str, int]) -> Any:
    rows = []
    for step in plan.steps:
        node, structs = step.node, engine._structs
        kind = "layer" if step.is_prepared else "conv" if _is_generic(step) else type(node)
        row = CStep(
            KINDS.index(kind),
            (ctypes.c_int32 * MAX_SOURCES)(),
            -1 if step.target is None else index[step.target],
            -1 if step.pooled is None else index[step.pooled],
            0,
            threshold_of(node) if isinstance(node, Threshold) else 0,
            engine._layers.pointers.get(node.name),
            ctypes.addressof(structs[node.name]) if kind == "conv" else None,
            ctypes.addressof(structs[node.name]) if isinstance(node, UpsampleBilinear2d | Rescale) else None,
        )
        if kind is Concat:
            channels = engine._graph.channels()
            for source in step.sources:
                copy = CStep.from_buffer_copy(row)
                copy.source[0] = index[source.name]
                rows.append(copy)
                row.first += channels[source.name]
            continue
        for position, source in enumerate(step.sources):
            row.source[position] = index[source.name]
        rows.append(row)
    return (CStep * len(rows))(*rows)
