"""Which runs a comparison consists of, where each lies, and how far it has come."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from quantunet.errors import UserError
from quantunet.train.config import BitLossConfig, Config, LossConfig, PhaseConfig, QatConfig, QuantizerConfig
from quantunet.train.config_file import load_config
from quantunet.train.run_dir import FLOAT_FILE

State = Literal["done", "interrupted", "not started"]
FLOAT_FOLDER = "float"
"""Below the comparison's folder: the float networks, each in a run folder named by what determines it."""


@dataclass(frozen=True)
class Systems:
    """The rows that share a data set and lie in one folder.

    Args:
        configs: each with a name of its own; their seed is replaced.
        seeds: how many, counted from 0.
        name: the folder below --out, and part of the table's name; empty: --out itself.
        records: the file of their finished runs (``records.py``), if one is kept.
    """

    configs: tuple[Config, ...]
    seeds: int
    name: str = ""
    records: Path | None = None


@dataclass(frozen=True)
class Job:
    """One run: ``config`` has its seed; ``float_folder`` is the run it takes its float network from, or None.

    ``on`` is the name of its `Systems`.
    """

    name: str
    config: Config
    folder: Path
    float_folder: Path | None
    on: str = ""

    @property
    def seed(self) -> int:
        """The seed of the run."""
        return self.config.seed

    @property
    def label(self) -> str:
        """The run in words."""
        return f"{self.name} seed {self.seed}" + (f" on {self.on}" if self.on else "")


@dataclass(frozen=True)
class Plan:
    """All runs of a comparison. ``floats`` are the float networks, each once; ``runs`` in the order they are done."""

    systems: tuple[Systems, ...]
    floats: tuple[Job, ...]
    runs: tuple[Job, ...]

    def jobs(self, systems: Systems, name: str) -> list[Job]:
        """The runs of one configuration, by seed."""
        return [job for job in self.runs if (job.on, job.name) == (systems.name, name)]

    def float_run(self, job: Job) -> Job:
        """The float network that a run starts from."""
        return next(each for each in self.floats if each.folder == job.float_folder)


def build_plan(systems: Sequence[Systems], out: Path) -> Plan:
    """Runs ``out/[DATA/]NAME/seed_K`` of every configuration and seed, and the float networks that they share.

    Seed by seed over all data sets, so that a comparison that is stopped has whole tables of fewer seeds.

    Raises:
        UserError: if two configurations have one name, or a folder holds a run of another configuration.
    """
    for each in systems:
        _refuse_same_names(each)
    floats: dict[Path, Job] = {}
    runs: list[Job] = []
    for seed in range(max(each.seeds for each in systems)):
        for each in systems:
            if seed >= each.seeds:
                continue
            for given in each.configs:
                config = given.with_seed(seed)
                shared = float_config(config)
                folder = out / each.name / FLOAT_FOLDER / float_key(config)
                floats.setdefault(folder, Job(f"float network of {config.name}", shared, folder, None, each.name))
                runs.append(Job(config.name, config, out / each.name / config.name / f"seed_{seed}", folder, each.name))
    plan = Plan(tuple(systems), tuple(floats.values()), tuple(runs))
    for job in (*plan.floats, *plan.runs):
        refuse_other_config(job)
    return plan


def _refuse_same_names(systems: Systems) -> None:
    names = [config.name for config in systems.configs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"two configurations are named {twice!r}: give one of them another name")
    if FLOAT_FOLDER in names:
        raise UserError(f"a configuration is named {FLOAT_FOLDER!r}, the folder of the float networks: rename it")


def float_config(config: Config) -> Config:
    """The run that trains the float network of ``config`` and no more: all that plays no part has its default."""
    training = config.training.model_copy(update={"qat": QatConfig(), "finetune": PhaseConfig()})
    return config.model_copy(
        update={
            "name": "float",
            "quantizer": QuantizerConfig(name="float"),
            "budget": None,
            "bit_loss": BitLossConfig(),
            "loss": LossConfig(bce=config.loss.bce, dice=config.loss.dice),
            "training": training,
        }
    )


def float_key(config: Config) -> str:
    """Twelve hexadecimal digits of the SHA-256 of what determines the float network: data (by path), network, loss,
    seed, float phase, crops, augmentation, precision. Values that are the default do not count, so that a key outlives
    new settings; the folder's ``config.yaml`` is compared in full before it is used.
    """
    text = json.dumps(float_config(config).model_dump(mode="json", exclude_defaults=True), sort_keys=True)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:12]


def state_of(job: Job) -> State:
    """How far a run has come: ``summary.json`` is what it writes when its results stand."""
    if (job.folder / "summary.json").exists():
        return "done"
    return "interrupted" if (job.folder / "checkpoints").exists() else "not started"


def has_float_network(folder: Path) -> bool:
    """Whether runs can start from this folder: one that was filled from records has a summary and no network."""
    return (folder / "summary.json").exists() and (folder / FLOAT_FILE).exists()


def refuse_other_config(job: Job) -> None:
    """Do nothing where the folder is empty, or holds this very run.

    Raises:
        UserError: if it holds another; naming the first key that differs.
    """
    path = job.folder / "config.yaml"
    if not path.exists():
        if (job.folder / "summary.json").exists():
            raise UserError(
                f"{job.folder}: holds a summary without its config.yaml: remove it, or choose another --out"
            )
        return
    difference = difference_in_folder(job)
    if difference is not None:
        raise UserError(
            f"{job.folder}: holds a run of another configuration ({difference}): rename the configuration, remove the "
            "folder, or choose another --out"
        )


def difference_in_folder(job: Job) -> str | None:
    """The first key in which the run that the job's folder holds differs from the job; None where it is this very run.

    Raises:
        UserError: if the folder's configuration is damaged.
    """
    saved = load_config(job.folder / "config.yaml")
    if saved == job.config:
        return None
    return _first_difference(saved.model_dump(mode="json"), job.config.model_dump(mode="json"))


def _first_difference(a: object, b: object, prefix: str = "") -> str:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in a.keys() | b.keys() if a.keys() != b.keys() else a:
            if a.get(key) != b.get(key):
                return _first_difference(a.get(key), b.get(key), f"{prefix}.{key}" if prefix else str(key))
    return f"{prefix} is {a!r} there, {b!r} here"
