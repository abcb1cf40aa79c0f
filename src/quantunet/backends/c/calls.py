"""C text of the one function of a model: its tensors, and the calls of the kernels, node by node or by rows."""

from __future__ import annotations

from quantunet.backends.c.join import parts_of
from quantunet.backends.c.layout import CModel, c_array, clamped, storage
from quantunet.backends.c.plan import bit_serial_nodes, swar_nodes
from quantunet.ir.graph import (
    ArgMax,
    Concat,
    Conv2d,
    ConvTranspose2d,
    GraphError,
    MaxPool2d,
    Node,
    Rescale,
    Threshold,
    UpsampleBilinear2d,
    UpsampleNearest2d,
)


def trace_function() -> str:
    """What shows every row to a test, where the code is compiled for it, else nothing."""
    return """#ifdef QN_TRACE /* the name of a function that is shown every row as it is written */
#include "qn_codes.h"

void QN_TRACE(int32_t index, size_t offset, const uint8_t *codes, size_t size_bytes);

static void show(int32_t index, const qn_tensor *x, qn_rows rows)
{
    const size_t row_bytes = (size_t)x->width * qn_pixel_bytes(x);

    for (int32_t row = rows.first; row < rows.first + rows.count; row++) {
        QN_TRACE(index, (size_t)row * row_bytes, qn_tensor_row(x, row), row_bytes);
    }
}
#else
#define show(index, x, rows) ((void)0)
#endif
"""


def run_function(model: CModel) -> str:
    """The function that ``model.h`` declares."""
    upper, prefix = model.prefix.upper(), model.prefix
    return "\n".join(
        [
            *([_schedule(model)] if model.plan.by_rows else []),
            f"int {prefix}_run(const {prefix}_code *image, {prefix}_label *mask)\n{{",
            *_tensors(model),
            f"\n    if (image == NULL || mask == NULL) {{\n        return {upper}_NULL_POINTER;\n    }}",
            _show(model, model.graph.input, f"(qn_rows){{0, {model.height}}}", indent=4),
            *(_by_rows(model) if model.plan.by_rows else _node_by_node(model)),
            f"    return {upper}_OK;\n}}\n",
        ]
    )


def _run_nodes(model: CModel) -> list[tuple[Node, Node]]:
    """(the node whose tensor is written, the node whose kernel writes it), in order; they differ for a fused mask."""
    return [(node, model.runs_as.get(node.name, node)) for node in model.stored_nodes[1:]]


def _node_by_node(model: CModel) -> list[str]:
    lines = []
    shapes = model.graph.shapes(model.height, model.width)
    for target, kernel in _run_nodes(model):
        rows = f"(qn_rows){{0, {shapes[target.name][1]}}}"
        lines += [f"    {call}" for call in _kernel_calls(model, kernel, target, rows)]
        lines.append(_show(model, target, rows, indent=4))
    return lines


def _schedule(model: CModel) -> str:
    """Which node runs when, and for how many rows."""
    rows = model.plan.by_rows
    assert rows is not None
    shapes = model.graph.shapes(model.height, model.width)
    kind = "uint8_t" if len(model.graph.nodes) <= 256 else "uint16_t"
    bands = [rows.bands.get(node.name, 0) for node in model.graph.nodes]
    heights = [shapes[node.name][1] for node in model.graph.nodes]
    return "\n".join(
        [
            "/* The node that runs next, for its next rows: as many at a time, and so many in all. */",
            c_array(f"static const {kind} schedule[]", rows.schedule),
            c_array("static const int16_t rows_at_a_time[]", bands),
            c_array("static const int16_t rows_in_all[]", heights) + "\n",
        ]
    )


def _by_rows(model: CModel) -> list[str]:
    lines = [
        f"    int16_t done[{len(model.graph.nodes)}] = {{0}};",
        "    for (size_t k = 0; k < sizeof schedule / sizeof *schedule; k++) {",
        "        const int32_t node = schedule[k], left = rows_in_all[node] - done[node];",
        "        const qn_rows rows = {done[node], left < rows_at_a_time[node] ? left : rows_at_a_time[node]};",
        "        switch (node) {",
    ]
    for target, kernel in _run_nodes(model):
        lines.append(f"        case {model.graph.nodes.index(target)}:")
        lines += [f"            {call}" for call in _kernel_calls(model, kernel, target, "rows")]
        lines += [_show(model, target, "rows", indent=12), "            break;"]
    return [
        *lines,
        "        }",
        "        done[node] = (int16_t)(done[node] + rows.count);",
        "    }",
    ]


def _show(model: CModel, node: Node, rows: str, indent: int) -> str:
    index = model.graph.nodes.index(node)
    return f"{' ' * indent}show({index}, &{model.identifier(node.name)}, ({rows}));"


def _location(model: CModel, name: str) -> str:
    if name == model.graph.input.name:
        return "(uint8_t *)image"
    if name == model.graph.output.name:
        return "(uint8_t *)mask"
    return f"arena + {model.plan.offsets[name]}"


def _tensors(model: CModel) -> list[str]:
    """A descriptor of every tensor that is stored, and of those that a convolution reads side by side."""
    formats, shapes = model.graph.formats(), model.graph.shapes(model.height, model.width)
    lines = []
    for node in model.stored_nodes:
        channels, height, width = shapes[node.name]
        kept = model.plan.by_rows.rows[node.name] if model.plan.by_rows else height
        lines.append(
            f"    const qn_tensor {model.identifier(node.name)} = {{{_location(model, node.name)}, "
            f"{storage(formats[node.name], node.name in model.plan.packed)}, {channels}, {height}, {width}, {kept}}};"
        )
    for name in sorted(model.plan.by_winograd):
        parts = parts_of(model.graph.node(name), model.plan.joins)
        texts = ", ".join(f"{{&{model.identifier(part.name)}, {int(part.is_doubled)}}}" for part in parts)
        lines.append(f"    const qn_part {model.identifier(name)}_parts[] = {{{texts}}};")
    return lines


def _kernel_calls(model: CModel, node: Node, target: Node, rows: str) -> list[str]:
    """The statements that run ``node`` for ``rows`` of the tensor of ``target``."""
    name, inputs = model.identifier(node.name), [f"&{model.identifier(source)}" for source in node.inputs]
    out = f"&{model.identifier(target.name)}"
    match node:
        case Conv2d() | ConvTranspose2d():
            if node.name in bit_serial_nodes(model.graph, model.tiling):
                return [f"qn_bit_serial_run(&{name}_node, {inputs[0]}, {out}, {rows}, &scratch);"]
            if node.name in swar_nodes(model.graph, model.tiling):
                return [f"qn_swar_run(&{name}_node, {inputs[0]}, {out}, {rows}, &scratch);"]
            if node.name in model.plan.by_winograd:
                parts = f"{name}_parts, {len(parts_of(node, model.plan.joins))}"
                return [f"qn_winograd_run(&{name}_node, {parts}, {out}, {rows}, &scratch);"]
            return [f"qn_conv2d_run(&{name}_node, {inputs[0]}, {out}, {rows}, &scratch);"]
        case MaxPool2d():
            return [f"qn_maxpool2d_run({inputs[0]}, {out}, {rows});"]
        case UpsampleNearest2d():
            return [f"qn_nearest2d_upsample({inputs[0]}, {out}, {rows});"]
        case UpsampleBilinear2d():
            return [f"qn_bilinear2d_upsample({inputs[0]}, &{name}_requantize, {out}, {rows});"]
        case Rescale():
            return [f"qn_codes_rescale({inputs[0]}, &{name}_requantize, {out}, {rows});"]
        case Concat():
            counts = [model.graph.channels()[source] for source in node.inputs]
            starts = [sum(counts[:position]) for position in range(len(counts))]
            return [
                f"qn_channels_copy({source}, {out}, {start}, {rows});"
                for source, start in zip(inputs, starts, strict=True)
            ]
        case Threshold():
            return [f"qn_mask_threshold({inputs[0]}, INT64_C({clamped(node.threshold)}), {out}, {rows});"]
        case ArgMax():
            return [f"qn_mask_argmax({inputs[0]}, {out}, {rows});"]
        case _:
            raise GraphError(f"node {node.name!r} of kind {type(node).__name__} has no C kernel")
