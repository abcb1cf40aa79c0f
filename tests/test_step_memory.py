"""What a training step keeps for its backward pass: counted exactly, by the storages that autograd saves."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from quantunet.losses import segmentation_loss
from quantunet.train.build import build_float_network, build_quantized_network
from quantunet.train.config import NetworkConfig, QuantizerConfig


def saved_bytes(network: nn.Module, images: Tensor, target: Tensor) -> int:
    """Bytes of all storages saved for the backward pass, each once, parameters and buffers not counted."""
    own = {each.untyped_storage().data_ptr() for each in (*network.parameters(), *network.buffers())}
    saved: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor  # held, so that no address is given out twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        segmentation_loss(network(images), target)
    return sum(tensor.untyped_storage().nbytes() for address, tensor in saved.items() if address not in own)


@pytest.mark.parametrize("base_channels", [8, 16])
def test_a_step_with_trainable_widths_keeps_at_most_1_3_times_a_float_step(
    base_channels: int, capsys: pytest.CaptureFixture[str]
) -> None:
    images = torch.randn(4, 1, 64, 64).to(memory_format=torch.channels_last)
    target = (torch.rand(4, 64, 64) < 0.2).long()
    network = build_float_network(NetworkConfig(base_channels=base_channels, levels=4), 1, 2, 0).train()
    whole = saved_bytes(network, images, target)
    quantized = build_quantized_network(network, QuantizerConfig(), [images]).train()
    ratio = saved_bytes(quantized, images, target) / whole
    with capsys.disabled():
        print(f"\nbase {base_channels}: a QAT step keeps {ratio:.2f} times the bytes of a float step")
    assert ratio <= 1.3
