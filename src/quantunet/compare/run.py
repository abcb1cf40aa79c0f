"""The comparison as a whole: plan it, do what is missing, write the table as it fills."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from quantunet.compare.collect import collect, group_by_data
from quantunet.compare.plan import Systems, build_plan, state_of
from quantunet.compare.records import pack_records, unpack_records
from quantunet.compare.schedule import Say, run_plan
from quantunet.compare.table import DataTable
from quantunet.compare.write import write_comparison

WRITE_EVERY_S = 60.0
WRITING_SHARE = 0.01
"""While runs go on the table is brought up to date so often at the most, and so seldom that it takes this share of the
time of a core: drawing takes seconds."""


@dataclass(frozen=True)
class Comparison:
    """What came of it: the tables, the files they are in, one line for each run that failed."""

    tables: list[DataTable]
    files: dict[str, Path]
    failed: dict[Path, str]


def compare(
    systems: Sequence[Systems], out: Path, *, at_once: int, say: Say, only_table: bool = False, tuned: bool = False
) -> Comparison:
    """Run the configurations x seeds of ``systems`` in ``out``, as far as they are not done, and write the table.

    Args:
        systems: the rows, by data set.
        out: holds the table's files, and NAME/seed_K for each run, float/KEY for the float networks; where ``systems``
            have names, in a folder of that name. Where they name a file of records, finished runs are taken from it and
            added to it.
        at_once: runs at a time, each a process with its share of the threads.
        say: told one line as each run ends.
        only_table: run nothing; from what is finished, whoever runs the rest.
        tuned: ``systems`` with the same cases are settings of one table, each system there with the best of them.

    Raises:
        UserError: if two configurations have one name, a folder in ``out`` holds another run, or ``tuned`` has nothing
            to choose from.
    """
    group_by_data(systems, tuned=tuned)  # what it refuses it refuses before anything runs
    plan = build_plan(systems, out)
    unpacked = unpack_records(plan)
    if unpacked:
        say(f"{unpacked} finished runs taken from records")
    failed: dict[Path, str] = {}
    next_writing = time.monotonic() + WRITE_EVERY_S

    def write() -> tuple[list[DataTable], dict[str, Path]]:
        tables = collect(plan, out, failed, tuned=tuned)
        pack_records(plan)
        return tables, write_comparison(tables, out, out.resolve().name)

    def write_now_and_then() -> None:
        nonlocal next_writing
        start = time.monotonic()
        if start > next_writing:
            write()
            end = time.monotonic()
            next_writing = end + max(WRITE_EVERY_S, (end - start) / WRITING_SHARE)

    if not only_table and any(state_of(job) != "done" for job in plan.runs):
        failed.update(run_plan(plan, at_once, say, on_done=write_now_and_then))
    return Comparison(*write(), failed)
