"""``compare``: configurations x seeds, in one table."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.console import Console

from quantunet.cli.app import console, print_json, print_table
from quantunet.cli.train_commands import parse_settings
from quantunet.data.read import require_folder
from quantunet.errors import UserError
from quantunet.train.config_file import load_on

SHOWN = ("Setting", "Dice", "Change to float", "Bits by parameter", "File bytes", "Ratio", "GBOPs", "≥\u00a099\u00a0%")
"""Columns that fit a terminal; the files have all."""


def register_compare_command(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command("compare")(compare)


def compare(
    configs: list[Path] = typer.Argument(..., metavar="CONFIG...", help="YAML configurations, each a row."),
    on: list[Path] = typer.Option(
        [], "--on", help="YAML of a data set that all rows run on; repeatable, a table each."
    ),
    seeds: str = typer.Option("3", metavar="N", help="Seeds by row: 0, 1, ...; or one number for each --on: 3,3,1."),
    out: Path = typer.Option(Path("runs/compare"), help="Folder of the runs and of the table."),
    jobs: int = typer.Option(1, min=1, help="Runs at a time; cores are divided among them."),
    data: Path | None = typer.Option(None, help="Folder of images and masks, for all; takes the place of data.path."),
    set_: list[str] = typer.Option([], "--set", help="Any key of all configurations, as key=value; repeatable."),
    records: Path | None = typer.Option(
        None, help="Folder of records, a file for each --on: finished runs are taken from it, and added."
    ),
    tuned: bool = typer.Option(
        False,
        "--tuned",
        help="Several --on of the same images are settings of one table: each system has the one with its best "
        "validation Dice.",
    ),
    only_table: bool = typer.Option(False, help="Run nothing: the table of what is finished."),
    json_output: bool = typer.Option(False, "--json", help="Print the table as JSON."),
) -> None:
    """Run configurations x seeds, and put them in one table: what is done is kept, what was stopped goes on.

    The float network of a data set and seed is trained once. Exit status 1 if a run failed.

    \b
    Examples:
      quantunet compare configs/isbi_em.yaml configs/lgg.yaml --seeds 3 --out runs/compare
      quantunet compare configs/isbi_em.yaml --seeds 1 --only-table --json
      quantunet compare configs/baselines/*.yaml --on configs/data/em.yaml --on configs/data/gm.yaml
      quantunet compare configs/baselines/*.yaml --on configs/data/em.yaml --records benchmarks/records --only-table
      quantunet compare configs/baselines/*.yaml --on configs/data/nih.yaml --on configs/data/nih_gentle.yaml --tuned
    """
    try:
        from quantunet.compare import cells
        from quantunet.compare.collect import to_json
        from quantunet.compare.plan import Systems
        from quantunet.compare.run import compare as run  # torch takes seconds to import: only here
    except ModuleNotFoundError as error:
        raise UserError(f"comparing needs {error.name}: pip install 'quantunet[train]'") from None
    overrides = parse_settings(set_)
    if data is not None and len(on) > 1:
        raise UserError("--data names one folder and --on several data sets: give each its data.path instead")
    if data is not None:
        overrides["data.path"] = str(data)
    _refuse_same_stem(on)
    counts = _seed_counts(seeds, max(1, len(on)))
    messages = Console(stderr=True, highlight=False) if json_output else console
    systems = [
        Systems(
            tuple(load_on(path, each, overrides) for path in configs),
            count,
            each.stem if each and len(on) > 1 else "",
            records / f"{each.stem if each else 'compare'}.jsonl" if records else None,
        )
        for each, count in zip(on or [None], counts, strict=True)
    ]
    if data is not None:
        require_folder(data, systems[0].configs[0].data.reader)
    result = run(
        systems,
        out,
        at_once=jobs,
        only_table=only_table,
        tuned=tuned,
        say=lambda line: messages.print(line, markup=False),
    )
    missing = cells.missing_lines(result.tables)
    files = {kind: str(path) for kind, path in result.files.items()}
    if json_output:
        failed = {str(folder): line for folder, line in result.failed.items()}
        print_json({"tables": to_json(result.tables), "missing": missing, "failed": failed, "files": files})
    else:
        for table in result.tables:
            heads = cells.columns(table)
            shown = [heads.index(head) for head in SHOWN if head in heads]
            rows = []
            for row in table.rows:
                texts = cells.cells(row, table)
                rows.append([cells.label(row), *(f"{texts[i].text} {texts[i].note}".strip() for i in shown)])
            print_table(table.name, ["system", *(heads[i] for i in shown)], rows)
        for line in missing:
            console.print(f"missing: {line}", markup=False)
        console.print(f"table: {files['html']}", markup=False)
    if result.failed:
        raise typer.Exit(1)


def _refuse_same_stem(on: list[Path]) -> None:
    """The stem names the folder of a data set's runs."""
    stems = [path.stem for path in on]
    twice = next((path for path in on if stems.count(path.stem) > 1), None)
    if twice is not None:
        raise UserError(f"--on: two files are named {twice.stem!r}: give each once, and rename one if they differ")


def _seed_counts(text: str, sets: int) -> list[int]:
    """The number of seeds of each data set.

    Raises:
        UserError: if the text is neither a number nor one for each data set, or one is below 1.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UserError(f"--seeds {text!r}: give a number from 1, or one for each --on, as 3,3,1")
    if len(parts) not in (1, sets):
        raise UserError(
            f"--seeds {text!r}: {len(parts)} numbers for {sets} data set(s): give one, or one for each --on"
        )
    counts = [int(part) for part in parts]
    return counts * sets if len(counts) == 1 else counts
