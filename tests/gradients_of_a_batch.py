"""Script of test_processes: the gradients of one QAT batch, split over N processes, as the loop computes them.

Usage: python gradients_of_a_batch.py N FILE
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import torch
from lightning_fabric import Fabric
from rich.console import Console

from quantunet.train.build import build_float_network, build_quantized_network
from quantunet.train.config import NetworkConfig, QuantizerConfig
from quantunet.train.config_file import build_config
from quantunet.train.loop import _backward, _Context


def main(processes: int, file: Path) -> None:
    torch.set_num_threads(1)
    fabric = Fabric(accelerator="cpu", devices=processes)
    fabric.launch()
    torch.manual_seed(0)
    images, target = torch.randn(4, 1, 16, 16), (torch.rand(4, 16, 16) < 0.3).long()
    float_network = build_float_network(NetworkConfig(base_channels=3, levels=2), 1, 2, 0)
    network = build_quantized_network(float_network, QuantizerConfig(), [images]).train()
    module = fabric.setup_module(network)
    module.mark_forward_method(network.logits_and_features)
    config = build_config({"data": {"path": "phantom"}}, {"loss.feature_distillation": 1.0})
    context = _Context(config, None, None, fabric, Console(file=io.StringIO()), {})  # pyright: ignore[reportArgumentType]
    context.teacher = float_network.eval()
    part = slice(fabric.global_rank, None, fabric.world_size)
    _backward(module, images[part], target[part], context, network, {"bits": 0.2})
    if fabric.is_global_zero:
        torch.save({name: parameter.grad for name, parameter in network.named_parameters()}, file)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
