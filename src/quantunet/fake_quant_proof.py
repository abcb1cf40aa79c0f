"""Proof that what was trained is what runs: codes of the fake-quantized network against those of the IntegerGraph."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from quantunet.ir import interpreter
from quantunet.ir.graph import IntegerGraph
from quantunet.nn.layers import Activation


@dataclass(frozen=True)
class CodeCount:
    """How many codes were compared, in how many tensors, and how many differ."""

    tensors: int
    compared: int
    differing: int


@torch.no_grad()
def compare_codes(network: nn.Module, graph: IntegerGraph, images: Iterable[NDArray[np.float32]]) -> CodeCount:
    """Compare every quantized tensor, and the sign or arg-max of the logits, on normalised, padded images (c, h, w).

    The network runs in float64, which holds all integers involved exactly.
    """
    network = copy.deepcopy(network).double().eval()
    seen: dict[str, Activation] = {}
    calls: dict[str, int] = {}
    hooks = []

    def remember(path: str):
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            if isinstance(output, Activation):
                calls[path] = calls.get(path, -1) + 1
                seen[path + (f".{calls[path]}" if calls[path] else "")] = output

        return hook

    for path, module in network.named_modules():
        hooks.append(module.register_forward_hook(remember(path)))
    tensors = compared = differing = 0
    for image in images:
        seen.clear()
        calls.clear()
        logits = network(torch.from_numpy(image)[None].double())
        codes = interpreter.trace(graph, interpreter.quantize_input(graph, image)[None])
        tensors = 0
        for node in graph.nodes[:-1]:
            values, scale = seen[node.name]
            if scale is None:
                continue  # the logits: compared as the mask
            tensors += 1
            expected = torch.round(values / scale).numpy()
            compared += expected.size
            differing += int((expected != codes[node.name]).sum())
        mask = (logits[:, 0] > 0) if logits.shape[1] == 1 else logits.argmax(1)
        tensors += 1
        compared += mask.numel()
        differing += int((mask.numpy() != codes[graph.output.name][:, 0]).sum())
    for hook in hooks:
        hook.remove()
    return CodeCount(tensors, compared, differing)
