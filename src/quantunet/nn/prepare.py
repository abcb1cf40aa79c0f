"""From a float network to a quantized one: assign quantizers by rule, calibrate them, freeze the widths."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from quantunet.nn.layers import Activation, ConvLayer, InputLayer, UpsampleBilinear, conv_layers
from quantunet.nn.unet import UNet
from quantunet.quant.quantizers import Quantizer

WeightQuantizerFactory = Callable[[int, int], Quantizer]
"""(out_channels, out_channel_axis) -> quantizer of one layer's weight."""
ActivationQuantizerFactory = Callable[[bool], Quantizer]
"""signed -> quantizer of one tensor."""
QuantizedLayer = ConvLayer | InputLayer | UpsampleBilinear


def assign_quantizers_(
    network: UNet,
    weight_quantizer: WeightQuantizerFactory,
    activation_quantizer: ActivationQuantizerFactory,
    image_quantizer: Quantizer | None = None,
) -> None:
    """Quantize every layer, the first and the last included.

    Every hidden tensor is unsigned (it comes after a ReLU) unless batch norm comes after the ReLU, the image signed,
    the logits stay accumulators. The two tensors that meet in a concatenation share one quantizer. The image has
    ``image_quantizer``; None: one like all others.

    Raises:
        ValueError: if batch norm has not been folded that can be.
    """
    for name, layer in conv_layers(network).items():
        if layer.norm is not None and not layer.norm_after_relu:
            raise ValueError(f"layer {name} still has batch norm: fold it before quantization")
        layer.weight_quantizer = weight_quantizer(layer.conv.out_channels, layer.out_channel_axis)
        layer.activation_quantizer = activation_quantizer(layer.norm_after_relu) if layer.relu else None
    for module in network.modules():
        if isinstance(module, UpsampleBilinear):
            module.activation_quantizer = activation_quantizer(False)
    network.input.activation_quantizer = image_quantizer or activation_quantizer(True)
    for skip, below in network.concat_pairs():
        below.activation_quantizer = skip.activation_quantizer


def leave_first_and_last_float_(network: UNet) -> None:
    """As 1908.01073 has it: float image, first block, last layer, interpolation, and biases.

    Tensors are quantized where a quantized convolution writes them.
    """
    network.input.activation_quantizer = None
    block = set(network.encoders[0].modules())
    for skip, below in network.concat_pairs():
        # a pair shared its quantizer: what is quantized keeps it, the float half gives it up
        below.activation_quantizer = skip.activation_quantizer if isinstance(below, ConvLayer) else None
        if skip in block:
            skip.activation_quantizer = None
    for layer in network.first_and_last_layers():
        layer.weight_quantizer = layer.activation_quantizer = None
    for layer in conv_layers(network).values():
        layer.integer_bias = False


@torch.no_grad()
def calibrate_(network: UNet, batches: Iterable[Tensor]) -> None:
    """Set every range from the weights and from what the float network computes on ``batches`` of images."""
    layers = quantized_layers(network)
    batches = list(batches)
    for layer in conv_layers(network).values():
        if layer.weight_quantizer is not None:
            layer.weight_quantizer.calibrate(layer.conv.weight)
    observed = observe_float_activations(network, batches)
    by_quantizer: dict[Quantizer, list[Tensor]] = {}
    for name, layer in layers.items():
        if layer.activation_quantizer is not None:
            by_quantizer.setdefault(layer.activation_quantizer, []).append(observed[name])
    for quantizer, tensors in by_quantizer.items():
        quantizer.calibrate(torch.cat(tensors))
    _make_room_for_biases_(network, batches[0][:1])


LARGEST_BIAS_CODE = 2**20
"""Where weights are tiny beside their bias, their step is made coarser, so that the bias code stays below this."""


def _make_room_for_biases_(network: UNet, image: Tensor) -> None:
    def before_layer(layer: nn.Module, inputs: tuple[Activation]) -> None:
        assert isinstance(layer, ConvLayer)
        scale = inputs[0].scale
        if layer.weight_quantizer is not None and layer.conv.bias is not None and scale is not None:
            if not layer.integer_bias:
                return
            layer.weight_quantizer.raise_scale_(layer.conv.bias.abs() / (scale * LARGEST_BIAS_CODE))

    hooks = [layer.register_forward_pre_hook(before_layer) for layer in conv_layers(network).values()]
    network(image)
    for hook in hooks:
        hook.remove()


def quantized_layers(network: nn.Module) -> dict[str, QuantizedLayer]:
    """All layers that may hold an activation quantizer, by name."""
    return {name: module for name, module in network.named_modules() if isinstance(module, QuantizedLayer)}


def observe_float_activations(network: UNet, batches: Iterable[Tensor]) -> dict[str, Tensor]:
    """A flat sample of what each layer puts out while no quantizer acts."""
    layers = quantized_layers(network)
    held = {name: (layer.activation_quantizer, _weight_quantizer(layer)) for name, layer in layers.items()}
    seen: dict[str, list[Tensor]] = {name: [] for name in layers}
    hooks = []
    for name, layer in layers.items():
        layer.activation_quantizer = None
        if isinstance(layer, ConvLayer):
            layer.weight_quantizer = None
        hooks.append(layer.register_forward_hook(_collector(seen[name])))
    network.eval()
    for images in batches:
        network(images)
    for hook in hooks:
        hook.remove()
    for name, layer in layers.items():
        layer.activation_quantizer = held[name][0]
        if isinstance(layer, ConvLayer):
            layer.weight_quantizer = held[name][1]
    return {name: torch.cat(parts) for name, parts in seen.items()}


def _weight_quantizer(layer: QuantizedLayer) -> Quantizer | None:
    return layer.weight_quantizer if isinstance(layer, ConvLayer) else None


def _collector(into: list[Tensor]) -> Callable[[nn.Module, object, Activation], None]:
    def collect(module: nn.Module, inputs: object, output: Activation) -> None:
        into.append(output.values.detach().flatten()[::7].clone())

    return collect


def weight_quantizers(network: nn.Module) -> dict[str, Quantizer]:
    """The quantizers of all weights, by layer, in order; empty for a float network."""
    layers = conv_layers(network)
    return {name: layer.weight_quantizer for name, layer in layers.items() if layer.weight_quantizer is not None}


def activation_quantizers(network: nn.Module) -> dict[str, Quantizer]:
    """The quantizers of all tensors, each once, named by the first layer that holds it."""
    unique: dict[Quantizer, str] = {}
    for name, layer in quantized_layers(network).items():
        if layer.activation_quantizer is not None:
            unique.setdefault(layer.activation_quantizer, name)
    return {name: quantizer for quantizer, name in unique.items()}


def all_quantizers(network: nn.Module) -> list[Quantizer]:
    """All quantizers, each once."""
    return [*weight_quantizers(network).values(), *activation_quantizers(network).values()]


def freeze_bit_widths_(network: nn.Module, shift: float | Mapping[Quantizer, Tensor] = 0.5) -> None:
    """Fix all widths: those of the weights at ``floor(width + shift)``, those of the activations rounded."""
    for quantizer in weight_quantizers(network).values():
        quantizer.freeze_bit_width_(shift[quantizer] if isinstance(shift, Mapping) else shift)
    for quantizer in activation_quantizers(network).values():
        quantizer.freeze_bit_width_(0.5)
