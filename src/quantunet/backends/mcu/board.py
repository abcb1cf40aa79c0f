"""Text of a microcontroller project: linker script, Makefile, recorded images. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from quantunet.backends.c.build import WARNINGS, runtime_files
from quantunet.backends.c.layout import CModel, c_array
from quantunet.backends.mcu.targets import CTarget
from quantunet.errors import UserError

STACK_BYTES = 4096
FIRMWARE = "firmware.elf"
TEST_SOURCES = ("main.c", "recorded.c", "board_host.c")
"""What runs the model here and compares; it lies in memory of its own."""
Codes = NDArray[np.integer]


@dataclass(frozen=True)
class Budget:
    """Memory that firmware may take, in bytes; the linker refuses more.

    Raises:
        UserError: if the board that QEMU emulates has less.
    """

    target: CTarget
    flash_bytes: int
    ram_bytes: int

    def __post_init__(self) -> None:
        board = self.target.board
        for option, size_bytes, region in (
            ("--flash", self.flash_bytes, board.flash),
            ("--ram", self.ram_bytes, board.ram),
        ):
            if not 1 <= size_bytes <= region.size_bytes:
                limit = f"1 B to {region.size_bytes // 1024} KiB"
                raise UserError(f"{option} {size_bytes} B: {board.machine} of --target {self.target.name} has {limit}")


def board_files(target: CTarget) -> dict[str, str]:
    """The files of ``mcu/firmware`` that a project for ``target`` carries, by path in the project."""
    names = {name: name for name in ("main.c", "board.h", "board_host.c", target.board.counter, target.startup)}
    if not target.has_libc:
        names |= {"memory_freestanding.c": "memory_freestanding.c", "freestanding/string.h": "string_freestanding.h"}
    folder = resources.files("quantunet.backends.mcu") / "firmware"
    return {f"board/{path}": (folder / name).read_text(encoding="utf-8") for path, name in names.items()}


def linker_script(budget: Budget) -> str:
    """``linker.ld``: flash and RAM as large as the budget, the test program in memory of its own."""
    board = budget.target.board
    test_objects = " ".join(f"*{name.removesuffix('.c')}.o" for name in (*TEST_SOURCES, board.counter))
    data = ".data .data.* .sdata .sdata.* .bss .bss.* .sbss .sbss.* COMMON"
    in_test = "\n".join(f"        {name}(.text .text.* .rodata .rodata.*)" for name in test_objects.split())
    test_data = "\n".join(f"        {name}({data})" for name in test_objects.split())
    half = board.test.size_bytes // 2
    entry = "_start" if budget.target.startup == "startup_riscv.c" else "startup_reset"
    return f"""/* Written by quantunet. FLASH and RAM are the budget, not the board; TEST is the test program's own. */
ENTRY({entry})

MEMORY
{{
    FLASH (rx) : ORIGIN = {board.flash.origin:#010x}, LENGTH = {budget.flash_bytes}
    RAM (rw) : ORIGIN = {board.ram.origin:#010x}, LENGTH = {budget.ram_bytes}
    TEST (rx) : ORIGIN = {board.test.origin:#010x}, LENGTH = {half}
    TEST_DATA (rw) : ORIGIN = {board.test.origin + half:#010x}, LENGTH = {half}
}}

SECTIONS
{{
    .test : ALIGN(8)
    {{
{in_test}
    }} > TEST
    .test_data : ALIGN(8)
    {{
{test_data}
    }} > TEST_DATA

    .text :
    {{
        KEEP(*(.vectors))
        *(.text .text.*)
        . = ALIGN(8);
    }} > FLASH
    .rodata : ALIGN(8)
    {{
        *(.rodata .rodata.* .srodata .srodata.*)
        . = ALIGN(8);
    }} > FLASH
    .ARM.exidx : {{ *(.ARM.exidx*) }} > FLASH

    .data : ALIGN(4)
    {{
        _data_begin = .;
        *(.data .data.* .sdata .sdata.*)
        . = ALIGN(4);
        _data_end = .;
    }} > RAM AT > FLASH
    _data_load = LOADADDR(.data);
    .bss (NOLOAD) : ALIGN(16)
    {{
        _bss_begin = .;
        *(.bss .bss.* .sbss .sbss.* COMMON)
        . = ALIGN(16);
        _bss_end = .;
        *(.caller)
        . = ALIGN(16);
    }} > RAM
    .stack (NOLOAD) : ALIGN(16)
    {{
        _stack_limit = .;
        . += {STACK_BYTES};
        _stack_top = .;
    }} > RAM

    _code_bytes = SIZEOF(.text);
    _constant_bytes = SIZEOF(.rodata) + SIZEOF(.ARM.exidx);
    _data_bytes = SIZEOF(.data);
    _flash_bytes = LOADADDR(.data) + SIZEOF(.data) - ORIGIN(FLASH);
    _ram_bytes = _stack_top - ORIGIN(RAM);
}}
"""


def makefile(budget: Budget, models: Sequence[str] = ("model.c",), tests: Sequence[str] = TEST_SOURCES) -> str:
    """``make`` links the firmware, ``make run`` runs it under QEMU, ``make size`` lists its sections."""
    target, board = budget.target, budget.target.board
    own = [name for name in runtime_files(target.kernel) if name.endswith(".c")]
    own += [target.startup] if target.has_libc else [target.startup, "memory_freestanding.c"]
    library = "" if target.has_libc else " -ffreestanding -Iboard/freestanding"
    link = "-nostartfiles" if target.has_libc else "-nostdlib"
    return f"""# Written by quantunet for {target.name}. Needs: {target.packages}
CROSS ?= {target.cross}
CC = $(CROSS)gcc
MACHINE = {" ".join(target.machine_flags)}
CFLAGS ?= {target.cflags}
WARNINGS = {" ".join(WARNINGS)} -Wconversion
FLAGS = $(WARNINGS) $(MACHINE) $(CFLAGS) -ffunction-sections -fdata-sections{library} -I. -Iboard
SOURCES = {" ".join((*models, *own))}
TEST_SOURCES = {" ".join((*tests, board.counter))}
OBJECTS = $(SOURCES:.c=.o) $(TEST_SOURCES:.c=.o)
# An instruction takes 2^{board.icount_shift} ns of virtual time, by which the test program counts them.
QEMU ?= {board.emulator}
QEMU_FLAGS = -machine {" ".join((board.machine, *board.options))} -icount shift={board.icount_shift} \\
  -display none -serial none -monitor none -chardev stdio,id=report \\
  -semihosting-config enable=on,target=native,chardev=report
vpath %.c board

{FIRMWARE}: $(OBJECTS) linker.ld
\t$(CC) $(MACHINE) {link} -T linker.ld -Wl,--gc-sections -Wl,-Map=firmware.map $(OBJECTS) -lgcc -o $@

# the test program is told of every part of the work, to count instructions by layer
{" ".join(name.replace(".c", ".o") for name in models)}: FLAGS += -DQN_TRACE=main_trace

%.o: %.c $(wildcard *.h board/*.h)
\t$(CC) $(FLAGS) -c $< -o $@

.PHONY: run test size clean
test: run
run: {FIRMWARE}
\t$(QEMU) $(QEMU_FLAGS) -kernel {FIRMWARE}

size: {FIRMWARE}
\t$(CROSS)size -A {FIRMWARE}
\t$(CROSS)size $(OBJECTS)

clean:
\trm -f *.o {FIRMWARE} firmware.map trace.bin input.bin
"""


def recorded_header(model: CModel) -> str:
    """``recorded.h``: sizes and names of what the test program compares."""
    shapes, graph = model.graph.shapes(model.height, model.width), model.graph
    _, height, width = shapes[graph.output.name]
    return f"""/* Written by quantunet: recorded images, and the masks that the reference interpreter gives. */
#ifndef RECORDED_H
#define RECORDED_H

#include "model.h"

#define RECORDED_NODES {len(graph.nodes)}
#define RECORDED_IMAGE_CODES {graph.input.channels * model.height * model.width}
#define RECORDED_MASK_PIXELS {height * width}

extern const int recorded_images_count;
extern const {model.prefix}_code recorded_images[];
extern const {model.prefix}_label recorded_masks[];
extern const char *const recorded_names[];

#endif
"""


def recorded_source(model: CModel, images: Sequence[Codes], masks: Sequence[Codes]) -> str:
    """``recorded.c``: images (c, h, w) of codes and masks (h, w) of labels."""
    codes = [code for image in images for code in image.transpose(1, 2, 0).ravel().tolist()]
    labels = [label for mask in masks for label in mask.ravel().tolist()]
    names = ",\n".join(f'    "{_c_text(node.name)}"' for node in model.graph.nodes)
    return f"""/* Written by quantunet. */
#include "recorded.h"

const int recorded_images_count = {len(images)};
{c_array(f"const {model.prefix}_code recorded_images[]", codes or [0])}
{c_array(f"const {model.prefix}_label recorded_masks[]", labels or [0])}
const char *const recorded_names[] = {{
{names},
}};
"""


def mask_checksum(mask: Codes) -> int:
    """FNV-1a of the labels, 32 bits, as the firmware prints it."""
    value = 2166136261
    for label in mask.ravel().tolist():
        value = ((value ^ (label & 0xFFFFFFFF)) * 16777619) & 0xFFFFFFFF
    return value


def _c_text(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.:/-]", "_", name)
