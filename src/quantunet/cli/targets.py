"""The table of ``--to``: what a target writes and how it is compared with the interpreter. A target is one entry.

Backends are imported when they are called for: their packages are optional.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from quantunet.errors import UserError
from quantunet.ir.graph import IntegerGraph

if TYPE_CHECKING:
    from quantunet.backends.mcu.board import Budget

Codes = NDArray[np.integer]
Options = Mapping[str, str]


@dataclass(frozen=True)
class Export:
    """What to write, and where.

    Args:
        size_px: (height, width) of an image.
        recorded: input codes (c, h, w) of that size, for the project's own test.
        options: those of the target's options that were given, as text.
    """

    graph: IntegerGraph
    out_dir: Path
    size_px: tuple[int, int]
    recorded: Sequence[Codes]
    options: Options


@dataclass(frozen=True)
class Target:
    """One value of ``--to``.

    Args:
        name, summary: for ``--help``.
        next_step: a command that the user may go on with; ``{folder}`` stands for what was written.
        export: writes a folder, all of it or nothing, and returns its path.
        verify: compares the backend with the interpreter on input codes (c, h, w): a JSON object with "tensors",
            "compared", "differing" and what else there is to tell, in words as "note".
        options: what ``--set`` may give, and what it means.
        remark: what is to be said of an export besides.
    """

    name: str
    summary: str
    next_step: str
    export: Callable[[Export], Path]
    verify: Callable[[IntegerGraph, Sequence[Codes], Options], dict[str, Any]]
    options: Mapping[str, str] = field(default_factory=dict)
    remark: Callable[[Export], str] = lambda _: ""


def find_target(name: str) -> Target:
    """The target called ``name``.

    Raises:
        UserError: if there is none.
    """
    if name not in TARGETS:
        raise UserError(f"--to {name!r} is unknown: {', '.join(TARGETS)}")
    return TARGETS[name]


def read_options(target: Target, settings: Sequence[str]) -> dict[str, str]:
    """The ``key=value`` texts of ``--set``.

    Raises:
        UserError: if one is malformed, or no option of the target.
    """
    options: dict[str, str] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not value:
            raise UserError(f"--set {setting!r} is not of the form key=value")
        if key not in target.options:
            known = ", ".join(target.options) or "none"
            raise UserError(f"--set {setting}: --to {target.name} has no option {key!r}; its options: {known}")
        options[key] = value
    return options


def _export_c(request: Export) -> Path:
    from quantunet.backends.c.project import export_c
    from quantunet.backends.mcu.project import export_mcu

    budget = _c_budget(request.options)
    if budget is None:
        return export_c(request.graph, request.out_dir, *request.size_px, request.recorded)
    return export_mcu(request.graph, request.out_dir, request.size_px, budget, request.recorded)


def _remark_c(request: Export) -> str:
    from quantunet.backends.mcu.project import fit, lay_out_for, trade_off

    budget = _c_budget(request.options)
    if budget is None:
        return ""
    table = trade_off(request.graph, *request.size_px, budget.target) if "trade_off" in request.options else ""
    return table + str(fit(lay_out_for(request.graph, *request.size_px, budget), budget))


def _verify_c(graph: IntegerGraph, inputs: Sequence[Codes], options: Options) -> dict[str, Any]:
    from quantunet.backends.c.verify import verify_c
    from quantunet.backends.mcu.verify import verify_images

    budget = _c_budget(options)
    return asdict(verify_c(graph, inputs) if budget is None else verify_images(graph, inputs, budget))


def _c_budget(options: Options) -> Budget | None:
    """Target and memory of a microcontroller; None for a project that is bound to none.

    Raises:
        UserError: if the target is unknown, a size malformed or more than there is, or a size is given without target.
    """
    from quantunet.backends.mcu.board import Budget
    from quantunet.backends.mcu.targets import find_c_target

    name = options.get("target", "generic")
    if name == "generic":
        for key in ("flash", "ram", "trade_off"):
            if key in options:
                option = f"--{key.replace('_', '-')} {options[key]}"
                raise UserError(f"{option}: the generic C project has no limits; name a --target")
        return None
    target = find_c_target(name)
    flash, ram = (_memory_bytes(options, key) for key in ("flash", "ram"))
    return Budget(target, flash or target.flash_bytes, ram or target.ram_bytes)


def _memory_bytes(options: Options, key: str) -> int | None:
    if key not in options:
        return None
    found = re.fullmatch(r"(\d{1,9})\s*(B|KiB|MiB)", options[key])
    if found is None or int(found[1]) == 0:
        raise UserError(f"--{key} {options[key]!r} is no size: write it as 64KiB, 1MiB or 65536B")
    return int(found[1]) * {"B": 1, "KiB": 1024, "MiB": 1024**2}[found[2]]


def _opset(options: Options) -> int:
    return int(_choice(options, "opset", ("21", "25")))


def _widths(options: Options) -> Literal["channel", "layer"]:
    return "layer" if _choice(options, "widths", ("channel", "layer")) == "layer" else "channel"


def _export_onnx(request: Export) -> Path:
    with _extra("onnx"):
        from quantunet.backends.onnx.project import export_onnx
    return export_onnx(request.graph, request.out_dir, request.recorded, _opset(request.options))


def _verify_onnx(graph: IntegerGraph, inputs: Sequence[Codes], options: Options) -> dict[str, Any]:
    opset = _opset(options)
    with _extra("onnx"):
        from quantunet.backends.onnx.verify import verify_onnx
    proof = verify_onnx(graph, inputs, opset)
    return asdict(proof) | {"note": proof.note}


def _for_finn(options: Options) -> bool:
    """Whether the dialect is FINN's.

    Raises:
        UserError: if it is unknown, or widths are asked for, which FINN has by layer alone.
    """
    for_finn = _choice(options, "dialect", ("quant", "finn")) == "finn"
    if for_finn and options.get("widths", "layer") != "layer":
        raise UserError(f"--set widths={options['widths']}: with dialect=finn weights have one width a layer")
    return for_finn


def _export_qonnx(request: Export) -> Path:
    widths, for_finn = _widths(request.options), _for_finn(request.options)
    with _extra("onnx"):
        from quantunet.backends.onnx.project import export_qonnx
    return export_qonnx(request.graph, request.out_dir, request.size_px, request.recorded, widths, for_finn)


def _verify_qonnx(graph: IntegerGraph, inputs: Sequence[Codes], options: Options) -> dict[str, Any]:
    widths, for_finn = _widths(options), _for_finn(options)
    with_passes = _choice(options, "passes", ("yes", "no")) == "yes"
    with _extra("onnx"):
        from quantunet.backends.onnx.verify import verify_qonnx
    proof = verify_qonnx(graph, inputs, widths, with_passes, for_finn)
    return asdict(proof) | {"note": proof.note}


def _export_hls4ml(request: Export) -> Path:
    cycles = _positive(request.options, "cycles")
    with _extra("hls"):
        from quantunet.backends.hls4ml import project as hls4ml_project
    return hls4ml_project.export_hls4ml(
        request.graph,
        request.out_dir,
        request.size_px,
        request.recorded,
        hls4ml_project.TARGET_CYCLES if cycles is None else cycles,
        request.options.get("part", hls4ml_project.PART),
    )


def _verify_hls4ml(graph: IntegerGraph, inputs: Sequence[Codes], _: Options) -> dict[str, Any]:
    with _extra("hls"):
        from quantunet.backends.hls4ml.verify import verify_hls4ml
    proof = verify_hls4ml(graph, inputs)
    return asdict(proof) | {"note": proof.note}


def _positive(options: Options, key: str) -> int | None:
    """The option's value, None where it is not given.

    Raises:
        UserError: if it is no whole number above 0.
    """
    value = options.get(key)
    if value is None:
        return None
    if not (value.isascii() and value.isdigit() and int(value)):
        raise UserError(f"--set {key}={value}: {key} is a whole number above 0")
    return int(value)


def _choice(options: Options, key: str, choices: Sequence[str]) -> str:
    """The option's value, or the first choice.

    Raises:
        UserError: if it is none of them.
    """
    value = options.get(key, choices[0])
    if value not in choices:
        raise UserError(f"--set {key}={value}: {key} is one of {', '.join(choices)}")
    return value


@contextmanager
def _extra(name: str) -> Iterator[None]:
    """A package that is absent is the user's to install.

    Raises:
        UserError: naming it and the extra that brings it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise UserError(f"this target needs {error.name}: pip install 'quantunet[{name}]'") from None


def _export_verilog(request: Export) -> Path:
    from quantunet.backends.verilog.project import export_verilog

    return export_verilog(request.graph, request.out_dir, *request.size_px, request.recorded, request.options)


def _verify_verilog(graph: IntegerGraph, inputs: Sequence[Codes], options: Options) -> dict[str, Any]:
    from quantunet.backends.verilog.project import plan_for
    from quantunet.backends.verilog.simulate import verify_verilog

    return asdict(verify_verilog(graph, inputs, lambda model, height, width: plan_for(model, height, width, options)))


_VERILOG_OPTIONS = {
    "fps": "frames a second; default: 30 clocks a pixel, or the fastest design if that is slower",
    "clock_mhz": "the clock that fps is counted at; default 100",
    "dsp_tables": "tables that a multiplier counts as: filters for which it is cheaper use them; default: none do",
}


TARGETS: Mapping[str, Target] = {
    target.name: target
    for target in (
        Target(
            "c",
            "C99 without malloc or float: model, runtime, Makefile, a test of recorded images",
            "make -C {folder} test",
            _export_c,
            _verify_c,
            {
                "target": "generic (default), or firmware: cortex-m4, cortex-m7, cortex-m55, riscv32; --target",
                "flash": "of the part, such as 512KiB; default: that of a real part; --flash",
                "ram": "likewise; --ram",
                "trade_off": "yes: print a table of the plans, RAM against instructions; --trade-off",
            },
            _remark_c,
        ),
        Target(
            "onnx",
            "ONNX with QuantizeLinear and DequantizeLinear: weights in INT4 or INT8, for images of any size",
            "python {folder}/test_model.py",
            _export_onnx,
            _verify_onnx,
            {"opset": "21 (default), or 25 for weights in INT2 where they fit"},
        ),
        Target(
            "qonnx",
            "QONNX for FPGA tools: integers in float32, the learned widths in Quant nodes",
            "python {folder}/test_model.py",
            _export_qonnx,
            _verify_qonnx,
            {
                "dialect": "'quant' (default), or 'finn': integer thresholds and the types of all tensors, for FINN",
                "widths": "of weights: by 'channel' (default), or the widest of each 'layer', which more tools read",
                "passes": "of verify: 'no' leaves out the runs after qonnx's cleanup and channels-last, a minute or so",
            },
        ),
        Target(
            "verilog",
            "a streaming design for FPGAs: one module a node, AXI-Stream; simulated by Verilator",
            "make -C {folder} test",
            _export_verilog,
            _verify_verilog,
            _VERILOG_OPTIONS,
        ),
        Target(
            "hls4ml",
            "a project of hls4ml (Vitis, io_stream) with exact types, FIFO depths and reuse factors",
            "make -C {folder} test",
            _export_hls4ml,
            _verify_hls4ml,
            {
                "cycles": "that each convolution may take for an image (default 1000000)",
                "part": "of Xilinx (default xc7z020clg400-1)",
            },
        ),
    )
}
