"""The C library of the host engine as Python sees it: its structures, functions, and the layers that it holds."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from quantunet.backends.c.build import accepts, build_library, host_files
from quantunet.backends.c.model_source import tiling_header
from quantunet.backends.c.plan import FAST
from quantunet.ir.graph import GraphError

MAX_SOURCES = 4


class CRequantize(ctypes.Structure):
    """``qn_requantize``."""

    _fields_ = (
        ("multiplier", ctypes.c_void_p),
        ("shift", ctypes.c_void_p),
        ("q_min", ctypes.c_int32),
        ("q_max", ctypes.c_int32),
        ("is_narrow", ctypes.c_int32),
    )


class CHostConv(ctypes.Structure):
    """``qn_host_conv``."""

    _fields_ = (
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("requantize", CRequantize),
        *((name, ctypes.c_int32) for name in ("out_channels", "kernel_height", "kernel_width", "stride", "padding")),
        *((name, ctypes.c_int32) for name in ("is_transposed", "is_signed_in", "is_signed_out", "source_count")),
        ("source_channels", ctypes.c_int32 * MAX_SOURCES),
        ("is_doubled", ctypes.c_int32 * MAX_SOURCES),
        ("in_max", ctypes.c_int32),
        ("head", ctypes.c_int32),
        ("threshold", ctypes.c_int64),
    )


class CConv(ctypes.Structure):
    """``qn_conv2d``."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("weight", "bit_width", "bias", "requantize")),
        *((name, ctypes.c_int32) for name in ("out_channels", "kernel_height", "kernel_width", "stride", "padding")),
        *((name, ctypes.c_int32) for name in ("upsample", "filter_block", "is_wide", "head")),
        ("threshold", ctypes.c_int64),
    )


class CTensor(ctypes.Structure):
    """``qn_host_tensor``."""

    _fields_ = (
        ("offset", ctypes.c_int64),
        *((name, ctypes.c_int32) for name in ("storage", "channels", "height", "width")),
    )


class CStep(ctypes.Structure):
    """``qn_host_step``."""

    _fields_ = (
        ("kind", ctypes.c_int32),
        ("source", ctypes.c_int32 * MAX_SOURCES),
        *((name, ctypes.c_int32) for name in ("target", "pooled", "first")),
        ("threshold", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("layer", "conv", "requantize")),
    )


class CProgram(ctypes.Structure):
    """``qn_host_program``."""

    _fields_ = (
        ("tensors", ctypes.c_void_p),
        ("steps", ctypes.c_void_p),
        ("step_count", ctypes.c_int32),
        *((f"scratch_{name}", ctypes.c_void_p) for name in ("filters", "patches", "wide", "acc", "corrections")),
        ("arena_bytes", ctypes.c_int64),
        ("generic_bytes", ctypes.c_int64),
    )


def host_flags() -> list[str]:
    """What the library is compiled with."""
    return ["-O3", *(["-march=native"] if accepts("-march=native") else []), "-pthread"]


def build_host_library(flags: Sequence[str] | None = None) -> Path:
    """The library of the host engine, from the cache or compiled anew.

    Raises:
        CompilerMissing: if there is no C compiler.
    """
    files = {**host_files(), "qn_tiling.h": tiling_header(FAST)}
    return build_library(files, host_flags() if flags is None else [*flags, "-pthread"])


def kernel_names(library: Path | None = None) -> tuple[str, ...]:
    """The kernels that the library holds, best first."""
    opened, names = open_library(str(library or build_host_library())), []
    while (name := opened.qn_host_kernel_name(len(names))) is not None:
        names.append(name.decode())
    return tuple(names)


@cache
def open_library(path: str) -> ctypes.CDLL:
    """The library with the types of its functions."""
    library, pointer = ctypes.CDLL(path), ctypes.c_void_p
    signatures = {
        "qn_host_layer_new": (pointer, [pointer, ctypes.c_char_p]),
        "qn_host_layer_free": (None, [pointer]),
        "qn_host_layer_kernel": (ctypes.c_char_p, [pointer]),
        "qn_host_layer_bytes": (ctypes.c_size_t, [pointer]),
        "qn_host_kernel_name": (ctypes.c_char_p, [ctypes.c_int32]),
        "qn_host_scratch_bytes": (ctypes.c_int64, [pointer]),
        "qn_host_run": (None, [pointer, pointer, pointer, pointer, ctypes.c_int32]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


class Layers:
    """Layers that C holds, freed with this object."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self.pointers: dict[str, int] = {}

    def add(self, name: str, conv: CHostConv, kernel: str | None) -> None:
        """Prepare a layer.

        Raises:
            GraphError: if there is no kernel of that name.
        """
        pointer = self._library.qn_host_layer_new(ctypes.byref(conv), None if kernel is None else kernel.encode())
        if not pointer:
            raise GraphError(f"node {name!r}: there is no kernel {kernel!r}, or no memory")
        self.pointers[name] = pointer

    def kernel(self, name: str) -> str:
        """The kernel of a layer."""
        return self._library.qn_host_layer_kernel(self.pointers[name]).decode()

    @property
    def size_bytes(self) -> int:
        """Bytes of all layers."""
        return sum(self._library.qn_host_layer_bytes(pointer) for pointer in self.pointers.values())

    def __del__(self) -> None:
        for pointer in self.pointers.values():
            self._library.qn_host_layer_free(pointer)
