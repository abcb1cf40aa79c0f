"""The comparison as one self-contained HTML page, in the style of a run's report."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib.resources import files

from quantunet.compare.cells import MISSING, Cell, cells, columns, conventions, label, missing_lines
from quantunet.compare.table import DataTable, Row
from quantunet.report.tables import table as html_table

EXTRA_STYLE = """
main, header, footer { max-width: 1400px; }
table.compare { font-size: 12.5px; }
.compare td, .compare thead th + th { padding-left: 5px; padding-right: 5px; }
.compare thead th { line-height: 1.25; }
.compare tbody th small { display: block; }
main figure.chart { max-width: 1160px; margin-left: auto; margin-right: auto; }
.compare a { color: inherit; text-decoration-color: #b9c2ce; text-underline-offset: 2px; }
.compare tr.float { background: #f5f7f9; }
ul.missing-runs { color: var(--muted); }
"""


def render_page(tables: Sequence[DataTable], plots: Sequence[str | None], title: str) -> str:
    """The whole page as text; ``plots`` are SVG, one a table, None where nothing is finished."""
    sections = [(f"data{i}", escape(table.name), _section(table, plots[i])) for i, table in enumerate(tables)]
    missing = missing_lines(tables)
    if missing:
        items = "".join(f"<li>{escape(line)}</li>" for line in missing)
        sections.append(("missing", f"Missing runs ({len(missing)})", f'<ul class="missing-runs">{items}</ul>'))
    navigation = "".join(f'<a href="#{key}">{name}</a>' for key, name, _ in sections)
    body = "".join(f'<section id="{key}"><h2>{name}</h2>{text}</section>' for key, name, text in sections)
    style = files("quantunet.report").joinpath("style.css").read_text(encoding="utf-8") + EXTRA_STYLE
    done = sum(len(row.seeds) for table in tables for row in table.rows if row.kind == "system")
    about = f"{done} quantized runs · {len(tables)} data set{'s' if len(tables) > 1 else ''}"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        # The browser itself refuses any request, as in a run's report.
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">"
        f"<title>{escape(title)} · quantunet comparison</title><style>{style}</style></head><body>"
        f'<header><p class="kind">quantunet comparison</p><h1>{escape(title)}</h1><p class="about">{about}</p>'
        f"<nav>{navigation}</nav></header><main>{body}</main>"
        "<footer><p><strong>Research use; not a medical device.</strong> Every row is measured on the same test cases, "
        "as an integer model unless marked as simulated. This file needs no network.</p></footer></body></html>\n"
    )


def _section(table: DataTable, plot: str | None) -> str:
    rows = [[_name(row), *(_cell(cell) for cell in cells(row, table))] for row in table.rows]
    kinds = {"trivial": "quiet", "float": "float", "system": ""}
    body = html_table(
        ["System", *map(escape, columns(table))], rows, "compare", [kinds[row.kind] for row in table.rows]
    )
    body += f'<p class="convention">{escape(conventions(table))}</p>'
    if plot is None:
        return body + '<p class="none">No run of this data set is finished yet.</p>'
    return body + f'<figure class="chart">{plot}</figure>'


def _name(row: Row) -> str:
    """The name, and links to the report of each seed."""
    links = " ".join(f'<a href="{escape(point.folder)}/report.html">{point.seed}</a>' for point in row.points)
    return escape(label(row)) + (f"<small>report of seed {links}</small>" if links else "")


def _cell(cell: Cell) -> str:
    if cell.text in ("yes", "no"):
        return f'<span class="pill {"good" if cell.text == "yes" else "open"}">{cell.text}</span>'
    text = f'<span class="missing">{MISSING}</span>' if cell.text == MISSING else escape(cell.text)
    return text + (f'<small class="ci">{escape(cell.note)}</small>' if cell.note else "")
