"""C text of an integer graph: ``model.h`` and ``model.c``. Pure functions; ``project`` makes a project of them."""

from __future__ import annotations

import numpy as np

from quantunet.backends.c import winograd as c_winograd
from quantunet.backends.c.calls import run_function, trace_function
from quantunet.backends.c.join import parts_of
from quantunet.backends.c.layout import CModel, c_array, clamped
from quantunet.backends.c.plan import (
    Tiling,
    bit_serial_nodes,
    filter_block,
    fused_heads,
    needs_wide_patches,
    swar_nodes,
)
from quantunet.ir.bit_packing import pack_rows
from quantunet.ir.graph import (
    Conv2d,
    ConvTranspose2d,
    Node,
    Requantize,
    Rescale,
    Threshold,
    UpsampleBilinear2d,
    WeightNode,
)


def tiling_header(tiling: Tiling) -> str:
    """``qn_tiling.h``: the tiling that the runtime and the sizes of the scratch arrays share."""
    return (
        "/* Pixels worked on at a time, the multiple that patches are padded to, the bits of a code in them. */\n"
        "#ifndef QN_TILING_H\n#define QN_TILING_H\n\n"
        f"#define QN_TILE_PIXELS {tiling.pixels}\n#define QN_LANES {tiling.lanes}\n"
        f"#define QN_PATCH_BITS {tiling.patch_bits}\n#define QN_PATCH_SIGNED {int(tiling.patch_signed)}\n\n#endif\n"
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
    tables = [_node_tables(model, node) for node in model.graph.nodes]
    return "\n".join(
        [
            "/* Written by quantunet. */",
            f'#include "{header}"\n\n#include <stddef.h>\n\n#include "qn_runtime.h"\n',
            '#include "qn_bit_serial.h"\n' if bit_serial_nodes(model.graph, model.tiling) else "",
            '#include "qn_swar.h"\n' if swar_nodes(model.graph, model.tiling) else "",
            '#include "qn_winograd.h"\n' if model.plan.by_winograd else "",
            trace_function(),
            _memory(model),
            *filter(None, tables),
            run_function(model),
        ]
    )


def packed_weight(node: WeightNode) -> np.ndarray:
    """The packed bytes of ``node``: by output channel, codes in (kh, kw, in) order."""
    rows = node.weight.transpose(0, 2, 3, 1).reshape(node.weight.shape[0], -1)
    return pack_rows(rows, node.weight_bit_width)


def _mask_size(model: CModel) -> str:
    _, height, width = model.graph.shapes(model.height, model.width)[model.graph.output.name]
    return f"{height} x {width}"


def _memory(model: CModel) -> str:
    scratch = model.plan.scratch
    lines = [f"static uint8_t arena[{model.prefix.upper()}_ARENA_BYTES];"] if model.plan.arena_bytes else []
    if model.graph.weight_nodes():
        lines += [
            f"static union {{qn_filter_code codes[{scratch.filters}]; int32_t aligned;}} scratch_filters;",
            f"static union {{qn_patch_code codes[{scratch.patches}]; int32_t aligned;}} scratch_patches;",
            f"static int32_t scratch_acc[{scratch.acc}];",
            f"static int32_t scratch_corrections[{scratch.corrections}];",
            *([f"static int32_t scratch_wide[{scratch.wide}];"] if scratch.wide else []),
            "static const qn_scratch scratch = {scratch_filters.codes, scratch_patches.codes, "
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


def _filter_block(model: CModel, node: WeightNode) -> int:
    if node.name in model.plan.by_winograd:
        parts = parts_of(node, model.plan.joins)
        return c_winograd.Fours.of(parts, model.graph.channels()).filter_block(node, model.tiling.winograd_bytes)
    return filter_block(node, node.name in fused_heads(model.graph), model.tiling)


def _conv_struct(model: CModel, node: WeightNode) -> str:
    name, fused = model.identifier(node.name), fused_heads(model.graph)
    head, threshold = "QN_HEAD_NONE", 0
    if node.name in fused:
        mask = model.graph.node(fused[node.name])
        head = "QN_HEAD_THRESHOLD" if isinstance(mask, Threshold) else "QN_HEAD_ARGMAX"
        threshold = clamped(mask.threshold) if isinstance(mask, Threshold) else 0
    # a transposed convolution is four 1x1 convolutions, interleaved
    geometry = [*node.weight.shape[2:], node.stride, node.padding, 1] if isinstance(node, Conv2d) else [1, 1, 1, 0, 2]
    numbers = [
        node.weight.shape[0],
        *geometry,
        _filter_block(model, node),
        int(needs_wide_patches(node, model.graph.formats()[node.inputs[0]])),
    ]
    requantize = "NULL" if node.requantize is None else f"&{name}_requantize"
    return (
        f"static const qn_conv2d {name}_node = {{{name}_weight, {name}_bit_width, {name}_bias, {requantize},\n"
        f"    {', '.join(map(str, numbers))}, {head}, INT64_C({threshold})}};\n"
    )
