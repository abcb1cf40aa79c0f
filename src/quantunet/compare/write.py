"""The table as files: Markdown, CSV, LaTeX, JSON and one HTML page, and the plots as SVG and PNG."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from quantunet.atomic_file import write_atomically
from quantunet.compare.cells import cells, columns, conventions, label, missing_lines
from quantunet.compare.collect import to_json
from quantunet.compare.page import render_page
from quantunet.compare.pareto_plot import pareto_png, pareto_svg
from quantunet.compare.statistics import GATES
from quantunet.compare.table import DataTable, Row, gate_name

STEM = "compare"
LATEX = {"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}",
         "^": r"\textasciicircum{}", "\\": r"\textbackslash{}", "≥": r"$\geq$", "±": r"$\pm$", "\u00d7": r"$\times$",
         "\u2212": r"$-$", "\u2013": "--", "<": r"$<$", "…": r"\dots{}", "\u00a0": "~"}  # fmt: skip


def write_comparison(tables: Sequence[DataTable], out: Path, title: str) -> dict[str, Path]:
    """Write all files into ``out`` (each whole or not at all); their paths by kind."""
    out.mkdir(parents=True, exist_ok=True)
    plots = {f"{STEM}_{slug(table.name)}": pareto_svg(table) for table in tables}
    texts = {
        f"{STEM}.md": markdown(tables, title),
        f"{STEM}.csv": csv_text(tables),
        f"{STEM}.tex": latex(tables),
        f"{STEM}.json": json.dumps({"tables": to_json(tables), "missing": missing_lines(tables)}, indent=1) + "\n",
        f"{STEM}.html": render_page(tables, list(plots.values()), title),
    }
    for name, text in texts.items():
        write_atomically(out / name, text.encode("utf-8"))
    for (name, svg), table in zip(plots.items(), tables, strict=True):
        if svg is not None:
            write_atomically(out / f"{name}.svg", svg.encode("utf-8"))
            write_atomically(out / f"{name}.png", pareto_png(table))
    return {kind: out / f"{STEM}.{ending}" for kind, ending in
            (("markdown", "md"), ("csv", "csv"), ("latex", "tex"), ("json", "json"), ("html", "html"))}  # fmt: skip


def slug(name: str) -> str:
    """A data set's name as part of a file's."""
    return "".join(letter if letter.isalnum() or letter in "_-" else "_" for letter in name).strip("_")


def markdown(tables: Sequence[DataTable], title: str) -> str:
    """One table a data set, its plot, and what is missing."""
    parts = [f"# {title}"]
    for table in tables:
        lines = [f"## {table.name}", ""]
        if not any(row.points for row in table.rows):
            parts.append("\n".join([*lines, "No run is finished."]))
            continue
        lines.append("| system | " + " | ".join(columns(table)) + " |")
        lines.append("|---|" + "---:|" * len(columns(table)))
        for row in table.rows:
            texts = [f"{cell.text} {cell.note}".strip() for cell in cells(row, table)]
            lines.append(f"| {label(row)} | " + " | ".join(text.replace("|", r"\|") for text in texts) + " |")
        lines += ["", f"![Dice against bytes and BOPs, {table.name}]({STEM}_{slug(table.name)}.png)"]
        lines += ["", conventions(table)]
        parts.append("\n".join(lines))
    missing = missing_lines(tables)
    if missing:
        parts.append("## Missing\n\n" + "\n".join(f"- {line}" for line in missing))
    return "\n\n".join(parts) + "\n"


def csv_text(tables: Sequence[DataTable]) -> str:
    """All rows of all data sets, numbers unrounded; the columns are the fields of ``Row``."""
    rows = [{"data": table.name, **_flat(row), "distance_unit": table.distance_unit} for table in tables
            for row in table.rows]  # fmt: skip
    buffer = io.StringIO()
    if rows:
        writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return buffer.getvalue()


def latex(tables: Sequence[DataTable]) -> str:
    """One ``tabular`` a data set, for the package booktabs; wide: put it in a ``sidewaystable`` or scale it."""
    parts = ["% needs \\usepackage{booktabs}"]
    for table in tables:
        head = ["system", *columns(table)]
        lines = [f"% {_latex(table.name)}: {_latex(conventions(table))}"]
        lines += [r"\begin{tabular}{l" + "r" * len(columns(table)) + "}", r"\toprule"]
        lines += [" & ".join(map(_latex, head)) + r" \\", r"\midrule"]
        for row in table.rows:
            texts = [label(row), *(f"{cell.text} {cell.note}".strip() for cell in cells(row, table))]
            lines.append(" & ".join(map(_latex, texts)) + r" \\")
        lines += [r"\bottomrule", r"\end{tabular}"]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _latex(text: str) -> str:
    return "".join(LATEX.get(letter, letter) for letter in text)


def _flat(row: Row) -> dict[str, Any]:
    low, high = row.dice_ci95 or (None, None)
    change = row.change
    change_low, change_high = (change.ci95 if change and change.ci95 else None) or (None, None)
    return {
        "system": row.name,
        "kind": row.kind,
        "simulated": row.simulated,
        "seeds": " ".join(map(str, row.seeds)),
        "setting": row.setting,
        "validation_dice": row.validation_dice,
        "dice": row.dice,
        "dice_low": low,
        "dice_high": high,
        "dice_interval": row.dice_interval,
        "change": change.mean if change else None,
        "change_low": change_low,
        "change_high": change_high,
        "change_p": change.p if change else None,
        "change_cases": change.cases if change else None,
        "hd95": row.hd95,
        "pixel_accuracy": row.pixel_accuracy,
        "weight_bits_by_layer": row.weight_bits_by_layer,
        "weight_bits_by_parameter": row.weight_bits_by_parameter,
        "activation_bits": row.activation_bits,
        "packed_bytes": row.packed_bytes,
        "file_bytes": row.file_bytes,
        "stored_bytes": row.stored_bytes,
        "ratio": row.ratio,
        "bops": row.bops,
        "time_s": row.time_s,
        "dominated_by": row.dominated_by,
        "keeps_99": row.keeps.get(gate_name(GATES[0])),
        "keeps_99_9": row.keeps.get(gate_name(GATES[1])),
        "missing_seeds": " ".join(map(str, row.missing)),
    }
