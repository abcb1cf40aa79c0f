"""A network as the sequence of its layers, by torch.fx: what lowering and the removal of channels walk along."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from torch import Tensor, fx, nn

from quantunet.nn import layers

LEAVES = (
    layers.InputLayer,
    layers.ConvLayer,
    layers.MaxPool,
    layers.UpsampleNearest,
    layers.UpsampleBilinear,
    layers.Concat,
)


class Step(NamedTuple):
    """One call of a layer: ``inputs`` are the names of the steps it reads; a layer's further calls have a number."""

    name: str
    layer: nn.Module
    inputs: tuple[str, ...]


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, LEAVES)


class _Logits(nn.Module):
    """Leaves out the network's last step, which drops the scale."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Any:
        return self.network.logits(image)  # pyright: ignore[reportCallIssue]


def layer_steps(network: nn.Module) -> tuple[Step, ...]:
    """Every call of a layer, in order, of a network that has a method ``logits(image) -> Activation``.

    Traced once for each network: its layers may change their size, not their order.
    """
    if network not in _TRACED:
        _TRACED[network] = tuple(_trace(network))
    return _TRACED[network]


_TRACED: WeakKeyDictionary[nn.Module, tuple[Step, ...]] = WeakKeyDictionary()


def _trace(network: nn.Module) -> Iterator[Step]:
    wrapper = _Logits(network)
    trace = _Tracer().trace(wrapper)
    modules = dict(wrapper.named_modules())
    names: dict[fx.Node, str] = {}
    used: dict[str, int] = {}
    for node in trace.nodes:
        if node.op != "call_module":
            continue
        path = str(node.target)
        used[path] = used.get(path, -1) + 1
        names[node] = path.removeprefix("network.") + (f".{used[path]}" if used[path] else "")
        inputs = tuple(names[source] for source in node.all_input_nodes if source in names)
        yield Step(names[node], modules[path], inputs)
