"""Proof that what was trained is what runs: codes of the fake-quantized network against those of the IntegerGraph."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from quantunet.arith import Int64
from quantunet.ir import interpreter
from quantunet.ir.graph import IntegerGraph
from quantunet.nn.layers import Activation
from quantunet.nn.unet import masks_of


@dataclass(frozen=True)
class CodeCount:
    """How many codes were compared, in how many tensors, and how many differ."""

    tensors: int
    compared: int
    differing: int


class FakeQuantProof:
    """Compares every quantized tensor, and the sign or arg-max of the logits, an image at a time; ``count`` sums up.

    The network runs in float64, which holds all integers involved exactly, on a copy of its own.
    """

    def __init__(self, network: nn.Module, graph: IntegerGraph) -> None:
        self.graph = graph
        self.count = CodeCount(0, 0, 0)
        self._network = copy.deepcopy(network).double().eval()
        self._seen: dict[str, Activation] = {}
        self._calls: dict[str, int] = {}
        for path, module in self._network.named_modules():
            module.register_forward_hook(self._remember(path))

    def _remember(self, path: str) -> Callable[[nn.Module, object, object], None]:
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            if isinstance(output, Activation):
                call = self._calls[path] = self._calls.get(path, -1) + 1
                self._seen[path + (f".{call}" if call else "")] = output

        return hook

    @torch.no_grad()
    def compare(self, image: NDArray[np.float32], codes: Mapping[str, Int64]) -> NDArray[np.uint8]:
        """Compare one image; return the network's mask (h, w).

        Args:
            image: normalised, padded (c, h, w).
            codes: what ``interpreter.trace`` gives for it.
        """
        self._seen.clear()
        self._calls.clear()
        logits = self._network(torch.from_numpy(image)[None].double())
        tensors = compared = differing = 0
        for node in self.graph.nodes[:-1]:
            values, scale = self._seen[node.name]
            if scale is None:
                continue  # the logits: compared as the mask
            tensors += 1
            expected = torch.round(values / scale).numpy()
            compared += expected.size
            differing += int((expected != codes[node.name]).sum())
        mask = masks_of(logits).numpy()
        compared += mask.size
        differing += int((mask != codes[self.graph.output.name][:, 0]).sum())
        self.count = CodeCount(tensors + 1, self.count.compared + compared, self.count.differing + differing)
        return mask[0].astype(np.uint8)


def compare_codes(network: nn.Module, graph: IntegerGraph, images: Iterable[NDArray[np.float32]]) -> CodeCount:
    """Compare the network with the interpreter on normalised, padded images (c, h, w)."""
    proof = FakeQuantProof(network, graph)
    for image in images:
        proof.compare(image, interpreter.trace(graph, interpreter.quantize_input(graph, image)[None]))
    return proof.count
