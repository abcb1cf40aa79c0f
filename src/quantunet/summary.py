"""``summary.json`` of a run: data, quality, widths, sizes and cost, of an integer model or, by formula, of a network.

A network that has no integer form (a layer left in float, a grid of scales that do not fit together) is summarised as
*simulated*: its quality is that of the fake-quantized network, its bytes are counted by formula, not measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from quantunet import cost, measures
from quantunet.integer_model import MODEL_FILE
from quantunet.ir.graph import IntegerGraph
from quantunet.ir.layer_table import layer_table, totals
from quantunet.ir.packed_file import payload_and_header_bytes
from quantunet.nn.layers import Activation, ConvLayer, InputLayer, conv_layers
from quantunet.nn.prepare import quantized_layers
from quantunet.nn.unet import UNet
from quantunet.quant.quantizers import Quantizer
from quantunet.train.budget import Budget, Kind
from quantunet.train.config import FpgaConfig

FLOAT_BITS = 32
"""Of a weight or activation without a quantizer."""


def float32_bytes(float_network: UNet) -> int:
    """4 x the parameters of the float network as trained, batch norm's included."""
    return cost.float32_bytes(sum(parameter.numel() for parameter in float_network.parameters()))


def graph_summary(graph: IntegerGraph, folder: Path, float_network: UNet, budget: str | None) -> dict[str, Any]:
    """Keys "bit_width", "size" and "cost" of the integer model in ``folder``, beside the float network it came from.

    Sizes are lengths of the real file. ``weights_by_parameter`` is the mean over all weights of the float network, with
    0 bits for those of removed channels; ``weights_left`` the share that is left, ``weights_by_parameter_left`` their
    mean.
    """
    height, width = graph.metadata["image_size"]
    rows = layer_table(graph, height, width)
    whole = totals(graph, rows, height, width)
    file_bytes = (folder / MODEL_FILE).stat().st_size
    whole_bytes = float32_bytes(float_network)
    payload, header = payload_and_header_bytes(folder / MODEL_FILE)
    return {
        "bit_width": {
            "weights_by_layer": whole.weight_bits_by_layer,
            "weights_by_parameter": _bits(graph) / _float_weights(float_network),
            "weights_by_parameter_left": whole.weight_bits_by_parameter,
            "weights_left": whole.weights / _float_weights(float_network),
            "activations": whole.activation_bits,
            "layers": [asdict(row) | {"weight": row.weight_bits, "activation": row.activation_bits} for row in rows],
        },
        "size": {
            "float32_bytes": whole_bytes,
            "packed_weight_bytes": whole.packed_weight_bytes,
            "model_file_bytes": file_bytes,
            "payload_bytes": payload,
            "header_bytes": header,
            "ratio": whole_bytes / file_bytes,
            "budget": budget,
        },
        "cost": {
            "macs": whole.macs,
            "bops": whole.bops,
            "peak_activation_bytes": whole.peak_activation_bytes,
            "image": [height, width],
        },
    }


MEASURE: Mapping[str, Callable[[IntegerGraph, tuple[int, int]], float]] = {
    "file": lambda graph, size: measures.file_bytes(graph),
    "flash": measures.flash_bytes,
    "ram": measures.ram_bytes,
    "macs": measures.macs,
    "bops": measures.bops,
    "latency": measures.latency_ms,
}
"""How each kind of budget is measured, but ``bits`` and ``lut``; ``size`` is that of the image, (h, w)."""


def measured(kind: Kind, graph: IntegerGraph, size: tuple[int, int], fpga: FpgaConfig) -> float:
    """What the graph takes of a budget of ``kind``, but ``bits``, in the budget's unit.

    Raises:
        UserError: if no design reaches ``fpga.fps``, or a compiler is missing.
    """
    if kind == "lut":
        return measures.lut(graph, fpga.size_px or size, fpga.fps, fpga.clock_mhz)
    return float(MEASURE[kind](graph, size))


def _bits(graph: IntegerGraph) -> int:
    return sum(int(node.weight_bit_width.sum()) * node.weight[0].size for node in graph.weight_nodes())


def _float_weights(float_network: UNet) -> int:
    return sum(layer.float_weights for layer in conv_layers(float_network).values())


def budgets_reached(
    graph: IntegerGraph, budgets: Sequence[Budget], float_network: UNet, fpga: FpgaConfig
) -> list[dict[str, Any]]:
    """What the deployed model takes of each budget: keys kind, budget, reached (in the same unit), text."""
    height, width = graph.metadata["image_size"]
    reached = []
    for budget in budgets:
        if budget.kind == "bits":
            amount = _bits(graph) / _float_weights(float_network)
        else:
            amount = measured(budget.kind, graph, (height, width), fpga)
        reached.append({"kind": budget.kind, "budget": budget.amount, "reached": amount, "text": str(budget)})
    return reached


@torch.no_grad()
def network_summary(
    network: UNet, image_size: tuple[int, int], whole_bytes: int, budget: str | None = None
) -> dict[str, Any]:
    """The same keys for a network as it is, by formula: for the float network, and for what has no integer form.

    Weights without a quantizer count 32 bits, and so do the activations that no quantizer wrote. ``formula_bytes`` is
    the packed weights and 4 bytes for each other parameter; there is no model file, so its length is None.
    """
    height, width = image_size
    read_bits = _activation_bits_read(network, height, width)
    layers = conv_layers(network)
    rows = [_row(name, layers[name], bits) for name, bits in read_bits.items()]  # in the order in which they ran
    weights = sum(row["weights"] for row in rows)
    packed = sum(row["packed_bytes"] for row in rows)
    other = sum(row["parameters"] - row["weights"] for row in rows)
    widths = _hidden_widths(network)
    formula_bytes = packed + cost.float32_bytes(other)
    return {
        "bit_width": {
            "weights_by_layer": sum(row["weight"] for row in rows) / len(rows),
            "weights_by_parameter": sum(row["weight"] * row["weights"] for row in rows) / weights,
            "activations": sum(widths) / len(widths),
            "layers": rows,
        },
        "size": {
            "float32_bytes": whole_bytes,
            "packed_weight_bytes": packed,
            "model_file_bytes": None,
            "formula_bytes": formula_bytes,
            "ratio": whole_bytes / formula_bytes,
            "budget": budget,
        },
        "cost": {
            "macs": sum(row["macs"] for row in rows),
            "bops": sum(row["bops"] for row in rows),
            "peak_activation_bytes": None,
            "image": [height, width],
        },
    }


def formula_bytes(network: UNet) -> int:
    """Bytes of ``network``'s packed weights and 4 for each of its other parameters; the image's size does not matter.

    The quantizers' own parameters (scales, widths) are not counted.
    """
    return network_summary(network, (network.size_multiple * 2, network.size_multiple * 2), 1)["size"]["formula_bytes"]


def _row(name: str, layer: ConvLayer, activation_bits: float) -> dict[str, Any]:
    weights = layer.conv.weight.numel()
    others = [layer.conv.bias, *(layer.norm.parameters() if layer.norm is not None else ())]
    packed, bits = cost.float32_bytes(weights), float(FLOAT_BITS)
    if layer.weight_quantizer is not None:
        channels = layer.conv.out_channels
        widths = layer.weight_quantizer.bit_width.double().expand(channels).tolist()
        packed = sum(math.ceil(width * (weights // channels) / 8) for width in widths)  # a row starts on a byte
        bits = sum(widths) / channels
    kernel = "x".join(map(str, layer.conv.kernel_size))
    return {
        "name": name,
        "op": f"{'conv_transpose' if layer.transposed else 'conv'} {kernel}",
        "parameters": weights + sum(each.numel() for each in others if each is not None),
        "weights": weights,
        "weight": bits,
        "activation": activation_bits,
        "macs": layer.macs,
        "bops": cost.bops(layer.macs, bits, activation_bits),
        "packed_bytes": packed,
    }


def _hidden_widths(network: UNet) -> list[float]:
    """Of every tensor inside the network that a layer writes: not the image, not the logits."""
    hidden = [
        layer
        for layer in quantized_layers(network).values()
        if not isinstance(layer, InputLayer) and not (isinstance(layer, ConvLayer) and not layer.relu)
    ]
    return [_width(layer.activation_quantizer) for layer in hidden]


def _width(quantizer: Quantizer | None) -> float:
    return float(FLOAT_BITS) if quantizer is None else float(quantizer.bit_width.float().mean())


def _activation_bits_read(network: UNet, height: int, width: int) -> dict[str, float]:
    """Width of what each layer reads, followed along the step that travels with every quantized tensor.

    The forward pass on an empty image also tells every layer its number of pixels.
    """
    written: dict[int, float] = {}
    steps = []  # held, so that no identity is given out twice
    read: dict[str, float] = {}

    def after(module: Any, inputs: object, output: Activation) -> None:
        quantizer = module.activation_quantizer
        if quantizer is not None and output.scale is not None:
            steps.append(output.scale)
            written[id(output.scale)] = _width(quantizer)

    def before(name: str, inputs: tuple[Activation]) -> None:
        read[name] = written.get(id(inputs[0].scale), float(FLOAT_BITS))

    hooks = [layer.register_forward_hook(after) for layer in quantized_layers(network).values()]
    for name, layer in conv_layers(network).items():
        hooks.append(layer.register_forward_pre_hook(_naming(name, before)))
    parameter, was_training = next(network.parameters()), network.training
    try:
        image = torch.zeros(1, network.input.channels, height, width, dtype=parameter.dtype, device=parameter.device)
        network.eval()(image)
    finally:
        network.train(was_training)
        for hook in hooks:
            hook.remove()
    return read


def _naming(name: str, before: Callable[[str, Any], None]) -> Callable[[nn.Module, Any], None]:
    return lambda module, inputs: before(name, inputs)


def is_simulated(summary: Mapping[str, Any]) -> bool:
    """Whether a quantized network was measured without an integer form."""
    return "quantized" in summary and not summary.get("integer", True)
