"""Proof that what was trained is what runs: codes of the fake-quantized network against those of the IntegerGraph."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from quantunet.arith import Int64
from quantunet.ir import interpreter, ranges
from quantunet.ir.graph import IntegerGraph
from quantunet.nn.layers import Activation, ConvLayer, conv_layers
from quantunet.nn.unet import masks_of


@dataclass(frozen=True)
class CodeCount:
    """How many codes were compared, in how many tensors, and how many differ."""

    tensors: int
    compared: int
    differing: int


FLOAT32_BITS = 25
"""Signed integers of this width are exact in float32: 24 bits of significand beside the sign."""


class _ExactConvolutions(TorchFunctionMode):
    """Convolutions of float64 tensors in float32, several times as fast, where float32 is exact: ``exact`` says so.

    The bias is added in float64.
    """

    exact = False

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if not self.exact or func not in (torch.conv2d, torch.conv_transpose2d):
            return func(*args, **kwargs)
        x, weight, bias, *rest = args
        products: Tensor = func(x.float(), weight.float(), None, *rest, **kwargs).double()
        return products if bias is None else products.add_(bias[:, None, None])


class FakeQuantProof:
    """Compares every quantized tensor, and the sign or arg-max of the logits, an image at a time; ``count`` sums up.

    The network runs on a copy of its own in float64, which holds all integers involved exactly; products are summed in
    float32 where it does so too: steps that are powers of two, and sums that provably fit its significand.
    """

    def __init__(self, network: nn.Module, graph: IntegerGraph) -> None:
        self.graph = graph
        self.count = CodeCount(0, 0, 0)
        self._network = copy.deepcopy(network).double().eval()
        self._convolutions = _ExactConvolutions()
        bits = {proof.name: proof.bit_width for proof in ranges.prove(graph)}
        for name, layer in conv_layers(self._network).items():
            if bits.get(name, FLOAT32_BITS + 1) <= FLOAT32_BITS:
                layer.register_forward_pre_hook(self._choose_float)
                layer.register_forward_hook(self._end_float)
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

    def _choose_float(self, layer: nn.Module, inputs: tuple[Activation, ...]) -> None:
        assert isinstance(layer, ConvLayer)
        scales = (inputs[0].scale, layer.weight_quantizer.scale if layer.weight_quantizer is not None else None)
        self._convolutions.exact = all(scale is not None and _is_power_of_two(scale) for scale in scales)

    def _end_float(self, layer: nn.Module, inputs: object, output: object) -> None:
        self._convolutions.exact = False

    @torch.no_grad()
    def compare(self, image: NDArray[np.float32], codes: Mapping[str, Int64]) -> NDArray[np.uint8]:
        """Compare one image; return the network's mask (h, w).

        Args:
            image: normalised, padded (c, h, w).
            codes: what ``interpreter.trace`` gives for it.
        """
        self._seen.clear()
        self._calls.clear()
        with self._convolutions:
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


def _is_power_of_two(scale: Tensor) -> bool:
    return bool((torch.frexp(scale).mantissa == 0.5).all())


def compare_codes(network: nn.Module, graph: IntegerGraph, images: Iterable[NDArray[np.float32]]) -> CodeCount:
    """Compare the network with the interpreter on normalised, padded images (c, h, w)."""
    proof = FakeQuantProof(network, graph)
    for image in images:
        proof.compare(image, interpreter.trace(graph, interpreter.quantize_input(graph, image)[None]))
    return proof.count
