"""Fits the factors of ``backends/mcu/instructions.py`` to exact counts under QEMU; prints them and the largest error.

Run: python benchmarks/mcu_formula.py   (some minutes; Cortex-M4, U-Nets of random weights under several plans)
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from classic_graph import classic_graph
from mcu_instructions import whole_board

from quantunet.backends.c.layout import CModel, lay_out
from quantunet.backends.mcu.instructions import node_terms
from quantunet.backends.mcu.project import mcu_files
from quantunet.backends.mcu.qemu import build_firmware, read_report, run_firmware
from quantunet.backends.mcu.targets import C_TARGETS

TARGET = C_TARGETS["cortex-m4"]
GRAPHS = ((5, 32, 4), (8, 64, 6), (13, 64, 5), (16, 32, 6), (10, 96, 6))
"""Base channels, side of the image, activation bits."""
PLANS = (
    (None, 32, False, True),
    (None, 128, True, True),
    (256, 16, True, True),
    (64, 64, False, True),
    (1, 32, True, True),
    (64, 32, False, False),
)
"""Pixels of a band, KiB of transformed weights, packed, by Winograd."""


def measure_nodes(model: CModel) -> dict[str, int]:
    """Executed instructions by node, of one random image."""
    limits, rng = model.graph.input.output, np.random.default_rng(1)
    shape = (model.graph.input.channels, model.height, model.width)
    codes = rng.integers(limits.q_min, limits.q_max + 1, shape)
    with tempfile.TemporaryDirectory(prefix="quantunet-bench-") as name:
        build_firmware(Path(name), mcu_files(model, whole_board(TARGET), [codes]))
        return dict(read_report(run_firmware(Path(name))).layers)


def main() -> None:
    """Print the factors as Python."""
    terms, counts, totals = [], [], []
    for base, side, bits in GRAPHS:
        graph = classic_graph(base, 4, "nearest", 3, bits)
        for band, kib, packed, winograd in PLANS:
            tiling = replace(
                TARGET.kernel.tiling, band_pixels=band, winograd_bytes=kib * 1024, packed=packed, winograd=winograd
            )
            model = lay_out(graph, side, side, tiling, kernel=TARGET.kernel)
            measured = measure_nodes(model)
            begin = len(terms)
            for node in model.stored_nodes[1:]:
                terms.append(node_terms(model, node))
                counts.append(measured[node.name])
            totals.append(slice(begin, len(terms)))
    names = sorted({name for term in terms for name in term})
    table = np.array([[term.get(name, 0) for name in names] for term in terms], float)
    known = names.index("products")
    rest = np.delete(table, known, axis=1)
    target = np.array(counts, float) - table[:, known]
    weight = 1 / np.sqrt(np.array(counts, float))
    factors, *_ = np.linalg.lstsq(rest * weight[:, None], target * weight, rcond=None)
    for name, factor in zip(np.delete(names, known), factors, strict=True):
        print(f'    "{name}": {factor:.2f},')
    print('    "products": 1.00,')
    fitted = rest @ factors + table[:, known]
    errors = [fitted[part].sum() / np.array(counts[part]).sum() - 1 for part in totals]
    print(f"# whole models: {min(errors):+.3f} to {max(errors):+.3f}; {len(terms)} nodes, {len(errors)} plans")


if __name__ == "__main__":
    main()
