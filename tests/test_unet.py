"""The U-Net: the classic network counted, shapes, sizes that do not fit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from quantunet.nn.layers import conv_layers
from quantunet.nn.prepare import assign_quantizers_
from quantunet.nn.unet import UNet
from quantunet.quant.quantizers import LearnedPowerOfTwo

UPSAMPLINGS = ("nearest", "bilinear", "transposed")


def test_the_classic_network_has_23_layers() -> None:
    with torch.device("meta"):  # 31 million weights, not one of them needed
        layers = list(conv_layers(UNet(1, 1, 64, 5, "transposed")).values())
    kernels = [layer.conv.kernel_size for layer in layers if not layer.transposed]
    assert len(layers) == 23
    assert kernels.count((3, 3)) == 18
    assert sum(layer.transposed for layer in layers) == 4
    assert kernels.count((1, 1)) == 1
    weights = sum(layer.conv.weight.numel() for layer in layers)
    # counted by hand: encoder 1-64-64-128-128-256-256-512-512-1024-1024, up 1024-512 ... 128-64, decoder, head
    encoder = sum(9 * (a * b + b * b) for a, b in ((1, 64), (64, 128), (128, 256), (256, 512), (512, 1024)))
    up = sum(4 * 2 * c * c for c in (64, 128, 256, 512))
    decoder = sum(9 * (2 * c * c + c * c) for c in (64, 128, 256, 512))
    assert weights == encoder + up + decoder + 64


@pytest.mark.parametrize("upsampling", UPSAMPLINGS)
@pytest.mark.parametrize("levels", [2, 3, 4])
def test_logits_have_the_image_size(upsampling: str, levels: int) -> None:
    network = UNet(2, 3, 2, levels, upsampling).eval()  # pyright: ignore[reportArgumentType]
    side = network.size_multiple
    assert side == 2 ** (levels - 1)
    image = torch.randn(2, 2, 3 * side, side)
    logits, features = network.logits_and_features(image)
    assert logits.shape == (2, 3, 3 * side, side)
    assert torch.equal(logits, network(image))
    assert [tuple(each.shape) for each in features] == [
        (2, 2 * 2**level, 3 * side // 2**level, side // 2**level) for level in reversed(range(levels))
    ]


@pytest.mark.parametrize("upsampling", UPSAMPLINGS)
@pytest.mark.parametrize("size", [(10, 8), (8, 9)])
def test_a_size_that_does_not_fit_is_named(upsampling: str, size: tuple[int, int]) -> None:
    network = UNet(1, 1, 2, 3, upsampling).eval()  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=f"{size[0]}x{size[1]}.*multiples of 4"):
        network(torch.randn(1, 1, *size))
    with pytest.raises(ValueError, match=f"{size[0]}x{size[1]}.*multiples of 4"):
        network.logits_and_features(torch.randn(1, 1, *size))


@pytest.mark.parametrize("upsampling", UPSAMPLINGS)
def test_the_two_tensors_of_a_concatenation_share_one_quantizer(upsampling: str) -> None:
    network = UNet(1, 1, 2, 4, upsampling)  # pyright: ignore[reportArgumentType]
    for layer in conv_layers(network).values():
        layer.norm = None
    assign_quantizers_(
        network, lambda channels, axis: LearnedPowerOfTwo(channels, axis, True), lambda s: LearnedPowerOfTwo(None, 1, s)
    )
    seen = []
    hook = network.concat.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs))
    for quantizer in {m.activation_quantizer for m in network.modules() if hasattr(m, "activation_quantizer")}:
        if quantizer is not None:
            quantizer.set_exponent_(float(torch.randint(-5, 3, ())))
    network(torch.randn(1, 1, 16, 16))
    hook.remove()
    assert len(seen) == 3
    for a, b in seen:
        assert float(a.scale) == float(b.scale)
    assert len(network.concat_pairs()) == 3
    for skip, below in network.concat_pairs():
        assert skip is not below
        assert skip.activation_quantizer is below.activation_quantizer


def test_gradients_reach_every_weight() -> None:
    for upsampling in UPSAMPLINGS:
        network = UNet(1, 1, 2, 3, upsampling)  # pyright: ignore[reportArgumentType]
        network(torch.randn(2, 1, 16, 16)).square().mean().backward()
        silent = [name for name, p in network.named_parameters() if p.grad is None]
        assert silent == []


def test_channels_last_changes_nothing_but_the_order_of_sums() -> None:
    network, x = UNet(1, 1, 4, 3).eval(), torch.randn(1, 1, 16, 16)
    y = network(x)
    other = nn.Module.to(network, memory_format=torch.channels_last)  # pyright: ignore
    torch.testing.assert_close(other(x.to(memory_format=torch.channels_last)), y, rtol=1e-4, atol=1e-5)
