"""A small quantized U-Net for every system, with its float network trained a few steps, for tests of lowering."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from quantunet.fake_quant_proof import CodeCount, compare_codes
from quantunet.lower import lower
from quantunet.nn import widths
from quantunet.nn.prepare import all_quantizers, freeze_bit_widths_
from quantunet.nn.unet import UNet
from quantunet.train.build import build_float_network, build_quantized_network
from quantunet.train.config import NetworkConfig, QuantizerConfig


def build_network(quantizer: dict[str, Any], *, classes: int = 2, **network: Any) -> UNet:
    """A quantized U-Net of 2 to 8 channels whose batch norm has seen some images."""
    section = NetworkConfig(**{"base_channels": 2, "levels": 3, **network})
    float_network = build_float_network(section, 1, classes, seed=3)
    images = torch.randn(4, 1, 16, 16)
    for _ in range(5):
        float_network(images)
    return build_quantized_network(float_network, QuantizerConfig(**quantizer), [images])


def train_steps(network: UNet, steps: int = 6, bit_weight: float = 0.3) -> None:
    """A few steps of everything trainable, bit term included."""
    own = [p for q in all_quantizers(network) for p in (*q.width_parameters(), *q.scale_parameters())]
    held = {id(parameter) for parameter in own}
    weights = [parameter for parameter in network.parameters() if id(parameter) not in held]
    groups = [{"params": weights, "lr": 0.02}, *([{"params": own, "lr": 0.6}] if own else [])]
    optimizer = torch.optim.Adam(groups)
    network.train()
    for step in range(steps):
        widths.set_progress_(network, step / steps)
        images = torch.randn(2, 1, 16, 16)
        loss = (network(images)[:, :1] - (images > 0).float()).square().mean()
        soft, _ = widths.trainable_widths(network, "parameters")
        soft += widths.trainable_activation_widths(network)
        loss = loss + bit_weight * torch.stack([width.mean() for width in soft]).sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        widths.project_(network)
    network.eval()


def count_codes(network: UNet, images: int = 3) -> CodeCount:
    """Codes of the lowered network against the fake-quantized one; the last images reach far beyond the range."""
    rng = np.random.default_rng(0)
    graph = lower(network, {})
    return compare_codes(
        network, graph, [rng.normal(0, 1 + 2 * i, (1, 16, 24)).astype(np.float32) for i in range(images)]
    )


def frozen_after_training(quantizer: dict[str, Any], **network: Any) -> UNet:
    """Built, trained a few steps, frozen: what a run lowers."""
    built = build_network(quantizer, **network)
    train_steps(built)
    freeze_bit_widths_(built)
    return built.eval()
