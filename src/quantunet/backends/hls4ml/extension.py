"""The layers of ours, taught to hls4ml: their shapes, and the C++ that calls ``hls4ml/cpp/nnet_quantunet.h``."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any

from hls4ml.backends import get_backend
from hls4ml.backends.template import FunctionCallTemplate, LayerConfigTemplate
from hls4ml.model.layers import Layer, register_layer

BACKEND = "Vitis"
HEADER = "nnet_quantunet.h"


class _SameSize(Layer):
    """One channel or all, height and width kept."""

    def initialize(self) -> None:
        """Declare what the layer writes."""
        self.add_output_variable(list(self.get_input_variable().shape))


class _OneChannel(Layer):
    """A mask."""

    def initialize(self) -> None:
        """Declare what the layer writes."""
        self.add_output_variable([*self.get_input_variable().shape[:2], 1])


class _TwiceTheSize(Layer):
    """Twice the height and width."""

    def initialize(self) -> None:
        """Declare what the layer writes."""
        height, width = self.get_attr("in_height"), self.get_attr("in_width")
        self.add_output_variable([2 * height, 2 * width, self.get_attr("n_chan")])


class QuantunetRequantize(_SameSize):
    """Accumulators to codes, by multiplier and shift."""


class QuantunetUpsampleNearest(_TwiceTheSize):
    """Each pixel a block of 2x2."""


class QuantunetUpsampleBilinear(_TwiceTheSize):
    """16 times the interpolated value."""


class QuantunetDepthToSpace(_TwiceTheSize):
    """Four groups of channels to the four pixels of a block."""


class QuantunetThreshold(_OneChannel):
    """Greater than a limit."""


class QuantunetArgMax(_OneChannel):
    """Index of the largest channel."""


_FUNCTIONS: dict[type[Layer], str] = {
    QuantunetRequantize: "quantunet_requantize",
    QuantunetUpsampleNearest: "quantunet_upsample_nearest",
    QuantunetUpsampleBilinear: "quantunet_upsample_bilinear",
    QuantunetDepthToSpace: "quantunet_depth_to_space",
    QuantunetThreshold: "quantunet_threshold",
    QuantunetArgMax: "quantunet_argmax",
}
_NUMBERS = ("in_height", "in_width", "n_chan", "n_pixels", "work_bits", "q_min", "q_max", "limit")


class _Config(LayerConfigTemplate):
    """``struct configN``: the numbers of a layer, and its tables by channel as functions."""

    def __init__(self) -> None:
        super().__init__(tuple(_FUNCTIONS))

    def format(self, node: Any) -> str:
        """The text of the structure."""
        attributes = dict(node.attributes)
        attributes.setdefault("n_pixels", attributes.get("in_height", 0) * attributes.get("in_width", 0))
        lines = [f"    static const long long {key} = {attributes[key]};" for key in _NUMBERS if key in attributes]
        if isinstance(node, QuantunetRequantize):
            lines.append(f"    static const bool has_multiplier = {str(node.get_attr('has_multiplier')).lower()};")
            lines.append(_table("long long", "multiplier", node.get_attr("multipliers")))
            lines.append(_table("int", "shift", node.get_attr("shifts")))
        return "\n".join([f"struct config{node.index} {{", *lines, "};"]) + "\n"


def _table(kind: str, name: str, values: list[int]) -> str:
    numbers = ", ".join(map(str, values))
    return (
        f"    static {kind} {name}(unsigned c) {{ static const {kind} values[{len(values)}] = {{{numbers}}}; "
        "return values[c]; }"
    )


class _Call(FunctionCallTemplate):
    """The line that runs a layer."""

    def __init__(self) -> None:
        super().__init__(tuple(_FUNCTIONS), include_header=[f"nnet_utils/{HEADER}"])

    def format(self, node: Any) -> str:
        """The text of the call."""
        found = self._default_function_params(node)
        function = {kind.__name__: name for kind, name in _FUNCTIONS.items()}[node.class_name]
        arguments = f"{found['input']}, {found['output']}"
        return f"nnet::{function}<{found['input_t']}, {found['output_t']}, {found['config']}>({arguments});"


@cache
def register() -> None:
    """Make the layers known to hls4ml, once."""
    backend = get_backend(BACKEND)
    for kind in _FUNCTIONS:
        register_layer(kind.__name__, kind)
    backend.register_template(_Config)
    backend.register_template(_Call)
    with resources.as_file(resources.files("quantunet.backends.hls4ml") / "cpp" / HEADER) as path:
        backend.register_source(path)
