"""C text of an integer graph: ``model.h`` and ``model.c``. Pure functions; ``c_code`` makes a project of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from quantunet.backends.c_kernels import PORTABLE, Kernel
from quantunet.backends.c_plan import (
    Plan,
    Tiling,
    filter_block,
    fused_heads,
    needs_wide_patches,
    plan,
    tensor_bytes,
)
from quantunet.formats import IntFormat
from quantunet.ir.bit_packing import pack_rows
from quantunet.ir.graph import (
    ArgMax,
    Concat,
    Conv2d,
    ConvTranspose2d,
    GraphError,
    Input,
    IntegerGraph,
    MaxPool2d,
    Node,
    Requantize,
    Rescale,
    Threshold,
    UpsampleBilinear2d,
    UpsampleNearest2d,
    WeightNode,
)

PREFIX = "quantunet"
LINE_COLUMNS = 116


@dataclass(frozen=True)
class CModel:
    """A graph laid out for one image size: all that the text is made from.

    Args:
        prefix: of every name that other files see, so that several models link into one program.
        kernel: the inner product that goes with it.
    """

    graph: IntegerGraph
    height: int
    width: int
    tiling: Tiling
    plan: Plan
    prefix: str
    kernel: Kernel = PORTABLE

    def identifier(self, name: str) -> str:
        """A C identifier for the tensor ``name``, unique by its position."""
        index = next(index for index, node in enumerate(self.graph.nodes) if node.name == name)
        return f"n{index}_{sanitise(name)}"


def lay_out(
    graph: IntegerGraph,
    height: int,
    width: int,
    tiling: Tiling | None = None,
    prefix: str = PREFIX,
    kernel: Kernel = PORTABLE,
) -> CModel:
    """Check that C can hold ``graph`` and plan its memory; ``tiling`` is the kernel's own if not given.

    Raises:
        GraphError: if the size does not fit, a format has no C storage, or the graph ends in no mask.
    """
    if not isinstance(graph.output, Threshold | ArgMax):
        raise GraphError(f"node {graph.output.name!r} stands last and is no mask: end the graph in Threshold or ArgMax")
    channels = graph.channels()
    for node in graph.nodes:
        if isinstance(node, Threshold) and channels[node.inputs[0]] != 1:
            raise GraphError(f"node {node.name!r} compares {channels[node.inputs[0]]} channels: give it one")
    for name, fmt in graph.formats().items():
        if fmt == IntFormat(32, False):
            raise GraphError(f"tensor {name!r} is unsigned of 32 bits, which C arithmetic in int32 cannot hold: use 31")
    tiling = tiling or kernel.tiling
    return CModel(graph, height, width, tiling, plan(graph, height, width, tiling), prefix, kernel)


def sanitise(name: str) -> str:
    """``name`` with only ASCII letters, digits and underscores, at most 40."""
    return re.sub(r"[^A-Za-z0-9]+", "_", name)[:40].strip("_")


def storage(fmt: IntFormat) -> str:
    """The runtime's name of the machine integer; unsigned codes of 17 to 31 bits are the same bits as signed ones."""
    bits = fmt.storage_bit_width
    return f"QN_{'S' if fmt.signed or bits == 32 else 'U'}{bits}"


def code_dtype(fmt: IntFormat) -> np.dtype[Any]:
    """The NumPy type of one unpacked code, as in C."""
    return np.dtype(fmt.c_type.removesuffix("_t"))


def tiling_header(tiling: Tiling) -> str:
    """``qn_tiling.h``: the tiling that the runtime and the sizes of the scratch arrays share."""
    return (
        "/* Pixels worked on at a time, the multiple that patches are padded to, the bits of a code in them. */\n"
        "#ifndef QN_TILING_H\n#define QN_TILING_H\n\n"
        f"#define QN_TILE_PIXELS {tiling.pixels}\n#define QN_LANES {tiling.lanes}\n"
        f"#define QN_PATCH_BITS {tiling.patch_bits}\n\n#endif\n"
    )


def model_header(model: CModel) -> str:
    """``model.h``: sizes, types and the one function."""
    upper, formats, graph = model.prefix.upper(), model.graph.formats(), model.graph
    return f"""/* Written by quantunet: one image of integer codes in, one mask out. */
#ifndef {upper}_MODEL_H
#define {upper}_MODEL_H

#include <stdint.h>

#define {upper}_CHANNELS {graph.input.channels}
#define {upper}_HEIGHT {model.height}
#define {upper}_WIDTH {model.width}

/* Static memory for activations and for the kernels' scratch; image and mask are the caller's. */
#define {upper}_ARENA_BYTES {max(model.plan.arena_bytes, 1)}
#define {upper}_SCRATCH_BYTES {model.plan.scratch_bytes}

/* An input code, {formats[graph.input.name].q_min} to {formats[graph.input.name].q_max}, and a label of the mask. */
typedef {formats[graph.input.name].c_type} {model.prefix}_code;
typedef {formats[graph.output.name].c_type} {model.prefix}_label;

enum {{ {upper}_OK = 0, {upper}_NULL_POINTER = 1 }};

/* image: [HEIGHT][WIDTH][CHANNELS] codes, mask: [HEIGHT][WIDTH] labels ({_mask_size(model)}).
 * Not reentrant: the arena is static. */
int {model.prefix}_run(const {model.prefix}_code *image, {model.prefix}_label *mask);

#endif
"""


def model_source(model: CModel, header: str = "model.h") -> str:
    """``model.c``: weights, tables, arena, and the nodes in order."""
    body = [_node_call(model, node) for node in model.graph.nodes]
    tables = [_node_tables(model, node) for node in model.graph.nodes]
    return "\n".join(
        [
            "/* Written by quantunet. */",
            f'#include "{header}"\n\n#include <stddef.h>\n\n#include "qn_runtime.h"\n',
            _trace_macro(),
            _memory(model),
            *filter(None, tables),
            f"int {model.prefix}_run(const {model.prefix}_code *image, {model.prefix}_label *mask)\n{{",
            *_tensors(model),
            f"\n    if (image == NULL || mask == NULL) {{\n        return {model.prefix.upper()}_NULL_POINTER;\n    }}",
            *filter(None, body),
            f"    return {model.prefix.upper()}_OK;\n}}\n",
        ]
    )


def stored_tensors(model: CModel) -> dict[str, int]:
    """Bytes of every tensor that the C code writes or reads, in node order, the image first, the mask last."""
    fused, formats = fused_heads(model.graph), model.graph.formats()
    shapes = model.graph.shapes(model.height, model.width)
    return {
        node.name: tensor_bytes(shapes[node.name], formats[node.name])
        for node in model.graph.nodes
        if node.name not in fused
    }


def packed_weight(node: WeightNode) -> np.ndarray:
    """The packed bytes of ``node``: by output channel, codes in (kh, kw, in) order."""
    rows = node.weight.transpose(0, 2, 3, 1).reshape(node.weight.shape[0], -1)
    return pack_rows(rows, node.weight_bit_width)


def c_array(declaration: str, values: Sequence[int]) -> str:
    """``declaration`` with its initialiser, wrapped."""
    texts = list(map(str, values))
    a_line = LINE_COLUMNS // (max(map(len, texts), default=1) + 2)
    lines = (f"    {', '.join(texts[first : first + a_line])}," for first in range(0, len(texts), a_line))
    return "\n".join([f"{declaration} = {{", *lines, "};"])


def _mask_size(model: CModel) -> str:
    _, height, width = model.graph.shapes(model.height, model.width)[model.graph.output.name]
    return f"{height} x {width}"


def _trace_macro() -> str:
    return """#ifdef QN_TRACE /* the name of a function that is shown every tensor */
void QN_TRACE(int32_t index, const uint8_t *codes, size_t size_bytes);
#define QN_TRACED(index, codes, size_bytes) QN_TRACE(index, codes, size_bytes)
#else
#define QN_TRACED(index, codes, size_bytes) ((void)0)
#endif
"""


def _memory(model: CModel) -> str:
    scratch = model.plan.scratch
    lines = [f"static uint8_t arena[{model.prefix.upper()}_ARENA_BYTES];"]
    if model.graph.weight_nodes():
        lines += [
            f"static qn_filter_code scratch_filters[{scratch.filters}];",
            f"static qn_patch_code scratch_patches[{scratch.patches}];",
            f"static int32_t scratch_acc[{scratch.acc}];",
            f"static int32_t scratch_corrections[{scratch.corrections}];",
            *([f"static int32_t scratch_wide[{scratch.wide}];"] if scratch.wide else []),
            "static const qn_scratch scratch = {scratch_filters, scratch_patches, "
            f"{'scratch_wide' if scratch.wide else 'NULL'}, scratch_acc, scratch_corrections}};",
        ]
    return "\n".join(lines) + "\n"


def _node_tables(model: CModel, node: Node) -> str:
    name = model.identifier(node.name)
    match node:
        case Conv2d() | ConvTranspose2d():
            parts = [
                c_array(f"static const uint8_t {name}_weight[]", packed_weight(node).tolist()),
                c_array(f"static const uint8_t {name}_bit_width[]", node.weight_bit_width.tolist()),
                c_array(f"static const int32_t {name}_bias[]", node.bias.tolist()),
            ]
            if node.requantize is not None:
                parts.append(_requantize_tables(name, node.requantize))
            return "\n".join([*parts, _conv_struct(model, node)])
        case UpsampleBilinear2d() | Rescale():
            return _requantize_tables(name, node.requantize)
        case _:
            return ""


def _requantize_tables(name: str, stage: Requantize) -> str:
    parts = [c_array(f"static const int8_t {name}_shift[]", stage.shift.tolist())]
    if not stage.is_shift_only:
        parts.append(c_array(f"static const int32_t {name}_multiplier[]", stage.multiplier.tolist()))
    is_narrow = stage.is_shift_only and bool(np.all((stage.shift >= 0) & (stage.shift <= 31)))
    multiplier = "NULL" if stage.is_shift_only else f"{name}_multiplier"
    parts.append(
        f"static const qn_requantize {name}_requantize = "
        f"{{{multiplier}, {name}_shift, {stage.output.q_min}, {stage.output.q_max}, {int(is_narrow)}}};\n"
    )
    return "\n".join(parts)


def _conv_struct(model: CModel, node: WeightNode) -> str:
    name, fused = model.identifier(node.name), fused_heads(model.graph)
    head, threshold = "QN_HEAD_NONE", 0
    if node.name in fused:
        mask = model.graph.node(fused[node.name])
        head = "QN_HEAD_THRESHOLD" if isinstance(mask, Threshold) else "QN_HEAD_ARGMAX"
        threshold = _clamped(mask.threshold) if isinstance(mask, Threshold) else 0
    # a transposed convolution is four 1x1 convolutions, interleaved
    geometry = [*node.weight.shape[2:], node.stride, node.padding, 1] if isinstance(node, Conv2d) else [1, 1, 1, 0, 2]
    numbers = [
        node.weight.shape[0],
        *geometry,
        filter_block(node, node.name in fused, model.tiling),
        int(needs_wide_patches(node, model.graph.formats()[node.inputs[0]])),
    ]
    requantize = "NULL" if node.requantize is None else f"&{name}_requantize"
    return (
        f"static const qn_conv2d {name}_node = {{{name}_weight, {name}_bit_width, {name}_bias, {requantize},\n"
        f"    {', '.join(map(str, numbers))}, {head}, INT64_C({threshold})}};\n"
    )


def _clamped(threshold: int) -> int:
    """Every int32 compares with this as it does with ``threshold``."""
    return max(-(2**31) - 1, min(int(threshold), 2**31))


def _location(model: CModel, name: str) -> str:
    if name == model.graph.input.name:
        return "(const uint8_t *)image"
    if name == model.graph.output.name:
        return "(uint8_t *)mask"
    return f"arena + {model.plan.offsets[name]}"


def _tensors(model: CModel) -> list[str]:
    """A descriptor of every tensor that some kernel reads from memory."""
    fused, formats = fused_heads(model.graph), model.graph.formats()
    shapes = model.graph.shapes(model.height, model.width)
    read = {name for node in model.graph.nodes for name in node.inputs} - set(fused)
    return [
        f"    const qn_tensor {model.identifier(node.name)} = {{{_location(model, node.name)}, "
        f"{storage(formats[node.name])}, {', '.join(map(str, shapes[node.name]))}}};"
        for node in model.graph.nodes
        if node.name in read
    ]


def _node_call(model: CModel, node: Node) -> str:
    fused = fused_heads(model.graph)
    if node.name in fused:
        return ""  # runs where its mask stands
    index = model.graph.nodes.index(node)
    size_bytes = stored_tensors(model)[node.name]
    trace = f"    QN_TRACED({index}, {_location(model, node.name)}, {size_bytes});"
    if isinstance(node, Input):
        return trace
    producer = next((model.graph.node(conv) for conv, mask in fused.items() if mask == node.name), node)
    lines = _kernel_calls(model, producer, node.name)
    return "\n".join([*(f"    {line}" for line in lines), trace])


def _kernel_calls(model: CModel, node: Node, target: str) -> list[str]:
    """The statements that run ``node`` into the tensor ``target``."""
    name, inputs = model.identifier(node.name), [model.identifier(source) for source in node.inputs]
    fmt = model.graph.formats()[target]
    out, out_storage = _location(model, target), storage(fmt)
    channels, height, width = model.graph.shapes(model.height, model.width)[target]
    match node:
        case Conv2d() | ConvTranspose2d():
            return [f"qn_conv2d_run(&{name}_node, &{inputs[0]}, {out}, {out_storage}, {height}, {width}, &scratch);"]
        case MaxPool2d():
            return [f"qn_maxpool2d_run(&{inputs[0]}, {out});"]
        case UpsampleNearest2d():
            return [f"qn_nearest2d_upsample(&{inputs[0]}, {out});"]
        case UpsampleBilinear2d():
            return [f"qn_bilinear2d_upsample(&{inputs[0]}, &{name}_requantize, {out}, {out_storage});"]
        case Rescale():
            return [f"qn_codes_rescale(&{inputs[0]}, &{name}_requantize, {out}, {out_storage});"]
        case Concat():
            counts = [model.graph.channels()[source] for source in node.inputs]
            starts = [sum(counts[:position]) for position in range(len(counts))]
            return [
                f"qn_channels_copy(&{source}, {out}, {out_storage}, {channels}, {start});"
                for source, start in zip(inputs, starts, strict=True)
            ]
        case Threshold():
            return [f"qn_mask_threshold(&{inputs[0]}, INT64_C({_clamped(node.threshold)}), {out}, {out_storage});"]
        case ArgMax():
            return [f"qn_mask_argmax(&{inputs[0]}, {out}, {out_storage});"]
        case _:
            raise GraphError(f"node {node.name!r} of kind {type(node).__name__} has no C kernel")
