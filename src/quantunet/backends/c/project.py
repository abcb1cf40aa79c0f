"""The C99 project of an integer graph: model, runtime, Makefile, a test with recorded images, README."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quantunet.backends.c.build import WARNINGS, find_compiler, has_compiler, runtime_files, write_files
from quantunet.backends.c.kernels import PORTABLE, Kernel
from quantunet.backends.c.layout import CModel, c_array, check_recorded, lay_out
from quantunet.backends.c.model_source import model_header, model_source, packed_weight, tiling_header
from quantunet.backends.c.plan import Tiling
from quantunet.backends.project_folder import write_project
from quantunet.formats import IntFormat
from quantunet.ir import interpreter
from quantunet.ir.graph import IntegerGraph

PRODUCTS = ("libmodel.a", "test_model", "test_model_sanitize", "*.o")
Codes = NDArray[np.integer]


def export_c(
    graph: IntegerGraph,
    out_dir: str | Path,
    height: int,
    width: int,
    recorded_inputs: Sequence[Codes] = (),
    tiling: Tiling | None = None,
    kernel: Kernel = PORTABLE,
) -> Path:
    """Write the project for images of ``height`` x ``width`` pixels; all of it or nothing. Returns ``out_dir``.

    Args:
        recorded_inputs: input codes (c, h, w); the project's test holds them and the interpreter's masks.
        tiling: the kernel's own if not given.
        kernel: the inner product that the project carries.

    Raises:
        UserError: if the size does not fit the graph, an input does not fit the size, or ``out_dir`` holds other files.
    """
    files = project_files(lay_out(graph, height, width, tiling, kernel=kernel), recorded_inputs)
    files["README.md"] += _section_sizes(files)
    return write_project(out_dir, files, products=PRODUCTS)


def project_files(model: CModel, recorded_inputs: Sequence[Codes] = ()) -> dict[str, str]:
    """Every file of the project, by name.

    Raises:
        UserError: if a recorded input does not fit the model.
    """
    return {
        **runtime_files(model.kernel),
        "qn_tiling.h": tiling_header(model.tiling),
        "model.h": model_header(model),
        "model.c": model_source(model),
        "test_model.c": test_source(model, recorded_inputs),
        "Makefile": makefile(model.kernel),
        "README.md": readme(model, len(recorded_inputs)),
    }


def makefile(kernel: Kernel = PORTABLE) -> str:
    """The Makefile: ``make``, ``make test``, ``make test-sanitize``, ``make size``, ``make clean``."""
    sources = " ".join(name for name in runtime_files(kernel) if name.endswith(".c"))
    return f"""# Set CC and CFLAGS for another machine: make CC=arm-none-eabi-gcc CFLAGS="-Os -mcpu=cortex-m7"
CFLAGS ?= {kernel.cflags}
WARNINGS = {" ".join(WARNINGS)}
SOURCES = model.c {sources}
OBJECTS = $(SOURCES:.c=.o)

libmodel.a: $(OBJECTS)
\t$(AR) rcs $@ $(OBJECTS)

%.o: %.c $(wildcard *.h)
\t$(CC) $(WARNINGS) $(CFLAGS) -c $< -o $@

test_model: test_model.c libmodel.a
\t$(CC) $(WARNINGS) $(CFLAGS) test_model.c libmodel.a -o $@

test_model_sanitize: test_model.c $(SOURCES) $(wildcard *.h)
\t$(CC) $(WARNINGS) -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all test_model.c $(SOURCES) -o $@

.PHONY: test test-sanitize size clean
test: test_model
\t./test_model

test-sanitize: test_model_sanitize
\t./test_model_sanitize

size: $(OBJECTS)
\tsize $(OBJECTS)

clean:
\trm -f *.o libmodel.a test_model test_model_sanitize
"""


def test_source(model: CModel, recorded_inputs: Sequence[Codes]) -> str:
    """``test_model.c``: runs the recorded images and counts the pixels that differ from the interpreter's masks."""
    upper, prefix = model.prefix.upper(), model.prefix
    images, masks = [0], [0]
    if len(recorded_inputs):
        check_recorded(model, recorded_inputs)
        codes = np.stack(list(recorded_inputs))
        images = codes.transpose(0, 2, 3, 1).ravel().tolist()
        masks = np.concatenate([interpreter.run(model.graph, image[None]).ravel() for image in codes]).tolist()
    return f"""/* Written by quantunet: recorded images and the masks that the reference interpreter gives. */
#include <stdio.h>

#include "model.h"

#define IMAGES {len(recorded_inputs)}
#define IMAGE_CODES ({upper}_HEIGHT * {upper}_WIDTH * {upper}_CHANNELS)
#define MASK_PIXELS {_mask_pixels(model)}

{c_array(f"static const {prefix}_code images[]", images)}
{c_array(f"static const {prefix}_label masks[]", masks)}
static {prefix}_label mask[MASK_PIXELS];

int main(void)
{{
    long differing = 0;

    for (long i = 0; i < IMAGES; i++) {{
        if ({prefix}_run(images + i * IMAGE_CODES, mask) != {upper}_OK) {{
            printf("image %ld: no result\\n", i);
            return 1;
        }}
        for (long k = 0; k < MASK_PIXELS; k++) {{
            differing += mask[k] != masks[i * MASK_PIXELS + k];
        }}
    }}
    printf("arena %ld bytes, scratch %ld bytes\\n", (long){upper}_ARENA_BYTES, (long){upper}_SCRATCH_BYTES);
    printf("%ld images, %ld pixels compared, %ld differing\\n", (long)IMAGES, (long)IMAGES * MASK_PIXELS, differing);
    return differing != 0;
}}
"""


def readme(model: CModel, images: int) -> str:
    """``README.md`` without the compiler's section sizes."""
    upper, prefix, graph, plan = model.prefix.upper(), model.prefix, model.graph, model.plan
    weight_bytes = sum(len(packed_weight(node)) for node in graph.weight_nodes())
    source, label = graph.input.output, graph.formats()[graph.output.name]
    return f"""# A segmentation model in C99, written by quantunet

Integer arithmetic only: no floating point, no heap, no libm. Research use; not a medical device.

| memory | bytes |
|---|---|
| activations, static arena (`{upper}_ARENA_BYTES`) | {plan.arena_bytes} |
| scratch of the kernels (`{upper}_SCRATCH_BYTES`) | {plan.scratch_bytes} |
| weights, packed, in `const` arrays | {weight_bytes} |
| image, the caller's | {_bytes(source, graph.input.channels * model.height * model.width)} |
| mask, the caller's | {_bytes(label, _mask_pixels(model))} |

## Call

```c
#include "model.h"

static {prefix}_code image[{upper}_HEIGHT * {upper}_WIDTH * {upper}_CHANNELS]; /* {source}: {_range(source)} */
static {prefix}_label mask[{_mask_pixels(model)}];                    /* {label}: {_range(label)} */

if ({prefix}_run(image, mask) != {upper}_OK) {{ /* a pointer was NULL */ }}
```

The image lies row by row, the channels of a pixel together. A code is
`floor(value / {graph.input.scale!r} + 1/2)` of the normalised value, saturated to {_range(source)}.

## Build and test

`make` builds `libmodel.a`. `make test` runs {images} recorded images and compares every pixel with the reference.
`make test-sanitize` does so under address and undefined-behaviour sanitizers. `make size` prints the sections.
Compile with `-DQN_TRACE=function` to have every row of every tensor shown to
`void function(int32_t node, size_t offset, const uint8_t *codes, size_t size_bytes)`, `offset` bytes into the tensor.
`qn_tiling.h` and the scratch arrays of `model.c` belong together: export again to change them.
"""


def _bytes(fmt: IntFormat, count: int) -> int:
    return count * fmt.storage_bit_width // 8


def _range(fmt: IntFormat) -> str:
    return f"{fmt.q_min} to {fmt.q_max}"


def _mask_pixels(model: CModel) -> int:
    _, height, width = model.graph.shapes(model.height, model.width)[model.graph.output.name]
    return height * width


def _section_sizes(files: Mapping[str, str]) -> str:
    """What ``size`` says of the compiled objects, as a section of the README; empty without the tools."""
    if not has_compiler() or shutil.which("size") is None:
        return ""
    sources = [name for name in files if name.endswith(".c") and name != "test_model.c"]
    with tempfile.TemporaryDirectory() as work:
        write_files(Path(work), files)
        objects = [str(Path(work) / f"{Path(name).stem}.o") for name in sources]
        for source, target in zip(sources, objects, strict=True):
            command = [*find_compiler(), "-std=c99", "-Os", "-fno-pie", "-c", source, "-o", target]
            if subprocess.run(command, cwd=work, capture_output=True).returncode:
                return ""
        report = subprocess.run(["size", *objects], capture_output=True, text=True).stdout.replace(work + os.sep, "")
    machine = subprocess.run([*find_compiler(), "-dumpmachine"], capture_output=True, text=True).stdout.strip()
    return (
        f"\n## Sections\n\nBytes as `size` prints for `-Os` on {machine}: flash holds text (the weights too) and\n"
        f"data, RAM holds data and bss.\n\n```\n{report}```\n"
    )
