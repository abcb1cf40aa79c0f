"""The main job, end to end: data -> training -> integer model -> proof -> evaluation -> report, in one run folder."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.utilities.rank_zero import rank_zero_only
from numpy.typing import NDArray
from rich.console import Console

from quantunet import measures
from quantunet.backends.c.build import has_compiler
from quantunet.backends.c.verify import CVerifier
from quantunet.data.config import PHANTOM
from quantunet.data.manifest import check_no_leak, manifest
from quantunet.data.normalize import normalize, pad_to_multiple, resolve, unpad
from quantunet.data.read import read_dataset
from quantunet.data.sample import Dataset, Part, Sample
from quantunet.data.split import Split, part_samples, split_cases, write_split
from quantunet.environment import describe_environment
from quantunet.errors import UserError
from quantunet.evaluate import Evaluation, differing_pixels, evaluate_cases, trivial_evaluation
from quantunet.fake_quant_proof import FakeQuantProof
from quantunet.integer_model import MODEL_FILE, IntegerModel, stack_by_case
from quantunet.ir import interpreter, ranges
from quantunet.ir.graph import IntegerGraph
from quantunet.ir.packed_file import write_model
from quantunet.lower import LoweringError, lower
from quantunet.nn.unet import UNet
from quantunet.report.page import write_report
from quantunet.summary import budgets_reached, float32_bytes, formula_bytes, graph_summary, measured, network_summary
from quantunet.train.batches import build_training_set
from quantunet.train.budget import Budget, Kind
from quantunet.train.config import Config
from quantunet.train.config_file import to_yaml
from quantunet.train.loop import (
    Trained,
    TrainingData,
    ValidationCase,
    predict_mask,
    refuse_impossible_budget,
    train,
    untrained,
)
from quantunet.train.run_dir import RunDir
from quantunet.train.size import Measures

Labels = NDArray[np.uint8]
SPLIT_FILE = "split.json"
"""Case ids by part; another run is given the same split by ``data.split.file``."""
EXAMPLES = 3
"""Test images in the report: best, median, worst."""
SANITIZED_IMAGES = 2
"""The C code is compared on all test images, and on so many also under address and undefined-behaviour sanitizers."""


@dataclass(frozen=True)
class Prepared:
    """A dataset, its split, and the normalisation measured on its training part."""

    dataset: Dataset
    split: Split
    normalization: dict[str, Any]
    parts: Mapping[Part, Sequence[Sample]]


def prepare_data(config: Config) -> Prepared:
    """Read, split, check for leaks, measure the normalisation.

    Raises:
        UserError: as the readers, the split and the leak check.
    """
    dataset = read_dataset(config.data)
    split = split_cases(dataset, config.data.split)
    check_no_leak(dataset, split)
    parts = part_samples(dataset, split, config.data)
    return Prepared(dataset, split, resolve(config.data.normalization, parts["train"]), parts)


def run_training(
    config: Config, out: Path, *, resume: bool, console: Console, float_run: Path | None = None
) -> dict[str, Any] | None:
    """Do the main job in folder ``out``; return the summary that is also written there.

    ``float_run`` is the folder of a finished run that ends with the float network of this one (same data, network,
    float phase, seed): its network is taken over instead of being trained again.

    With ``config.devices`` above 1 the command starts itself again for each further process: those only train, print
    nothing, and get None.

    Raises:
        UserError: if data, configuration or folder are wrong.
    """
    started = time.monotonic()
    config = config.with_seed(config.seed)
    is_first = rank_zero_only.rank == 0
    console.quiet = not is_first
    console.print(f"run folder {out}")
    data = prepare_data(config)
    training_data, measure = _training_data(config, data), _measures(data, config)
    refuse_impossible_budget(config, training_data, measure)
    fabric = _build_fabric(config)
    run = RunDir(out, resume=resume, writes=is_first)  # before the other processes start: a folder in use ends it here
    try:
        if float_run is not None:
            run.adopt_float(float_run)
        if config.devices > 1:
            logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # which process has which rank
            warnings.filterwarnings("ignore", message="Grad strides do not match")  # of 1x1 kernels: nothing is wrong
            fabric.launch()
        if not is_first:
            train(config, training_data, run, fabric, measure, console)
            return None
        if not (out / "config.yaml").exists():
            run.write_text("config.yaml", to_yaml(config))
        given = {"built_in_data": config.data.path == PHANTOM, "data": manifest(data.dataset, data.split)}
        cuda = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
        environment = describe_environment(torch.get_num_threads(), cuda)
        run.write_json("environment.json", environment | {"seed": config.seed} | given)
        write_split(data.split, out / SPLIT_FILE)
        for problem in data.dataset.problems:
            console.print(f"note: {problem}", highlight=False)
        prepared_s = time.monotonic() - started
        trained = train(config, training_data, run, fabric, measure, console)
        return _finish(config, data, trained, run, console, time.monotonic() - prepared_s)
    finally:
        run.close()


def untrained_sizes(config: Config, kinds: Sequence[Kind]) -> dict[Kind, float]:
    """What the network of ``config`` takes before it is trained, with all channels, in the unit of each kind of budget.

    Raises:
        UserError: as `prepare_data`.
    """
    data = prepare_data(config)
    budgets = [Budget(kind, 1.0) for kind in kinds]
    sizes = untrained(config, _training_data(config, data), _measures(data, config), budgets)
    return {budget.kind: sizes.now(budget) for budget in budgets}


def _build_fabric(config: Config) -> Fabric:
    """Devices and precision.

    Raises:
        UserError: if this machine has no such accelerator, or not so many.
    """
    try:
        return Fabric(accelerator=config.accelerator, devices=config.devices, precision=config.precision)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"accelerator: {config.accelerator}, devices: {config.devices}, precision: {config.precision} "
            f"do not work on this machine: {error}"
        ) from None


def _training_data(config: Config, data: Prepared) -> TrainingData:
    images = [normalize(sample.image, data.normalization) for sample in data.parts["train"]]
    masks = [_mask(sample) for sample in data.parts["train"]]
    multiple = 2 ** (config.network.levels - 1)
    cases: dict[str, list[Sample]] = {}
    for sample in data.parts["validation"]:
        cases.setdefault(sample.case_id, []).append(sample)
    validation = []
    for samples in cases.values():
        padded, padding = zip(
            *(pad_to_multiple(normalize(s.image, data.normalization), multiple) for s in samples), strict=True
        )
        top, bottom, left, right = padding[0]
        height, width = padded[0].shape[1:]
        box = (slice(top, height - bottom), slice(left, width - right))
        validation.append(ValidationCase(np.stack(padded), np.stack([_mask(s) for s in samples]), box))
    return TrainingData(
        # with neighbours as channels an image has more of them than the data set's files
        build_training_set(images, masks),
        validation,
        len(images[0]),
        len(data.dataset.class_names),
    )


def _mask(sample: Sample) -> Labels:
    assert sample.mask is not None, sample.name
    return sample.mask


def _metadata(data: Prepared, config: Config) -> dict[str, Any]:
    """What the model file says of itself beside the graph: enough to use it without the run folder."""
    height, width = data.parts["test"][0].image.shape[1:]
    multiple = 2 ** (config.network.levels - 1)
    return {
        "name": config.name,
        "normalization": data.normalization,
        "class_names": list(data.dataset.class_names),
        "class_values": [list(values) for values in data.dataset.class_values],
        **({"in_plane": data.dataset.in_plane.to_json()} if data.dataset.in_plane else {}),
        **({"neighbour_slices": config.data.neighbour_slices} if config.data.neighbour_slices else {}),
        "image_size": [height + -height % multiple, width + -width % multiple],
    }


def _measures(data: Prepared, config: Config) -> Measures:
    metadata = _metadata(data, config)
    size = tuple(metadata["image_size"])

    def amount(kind: Kind, network: UNet) -> float:
        try:
            graph = lower(network, metadata)
        except LoweringError as error:
            if kind == "file":  # a layer is left in float: there will be no file, only a count
                return formula_bytes(network)
            raise UserError(f"budget {kind}: it counts an integer model, and there is none: {error}") from None
        return measured(kind, graph, size, config.fpga)

    return Measures(
        amount,
        lambda network: measures.peak_tensors(lower(network, metadata), size),
        lambda network: measures.latency_savings(lower(network, metadata), size),
    )


def _finish(
    config: Config, data: Prepared, trained: Trained, run: RunDir, console: Console, started: float
) -> dict[str, Any]:
    """Lower, write, evaluate on the test cases (the only use of them), prove, report.

    ``started``: when this would have started, had the training taken no time (its own clock goes on over resumes).
    """
    test = data.parts["test"]
    predictions = {"float": _predict(trained.float_network, test, data)}
    graph = None
    proof: dict[str, Any] = {"backends": {}, "accumulators": []}
    if trained.quantized is not None:
        console.print("lowering to integers, evaluating on the test cases, proving …")
        try:
            graph = lower(trained.quantized, _metadata(data, config))
        except LoweringError as error:
            console.print(f"note: no integer model, measured as simulated: {error}", highlight=False)
            predictions["fake_quantized"] = _predict(trained.quantized.double(), test, data)
        else:
            write_model(graph, run.path / MODEL_FILE)
            model = IntegerModel.load(run.path)
            proof, predictions["fake_quantized"] = prove(model, trained.quantized, test, data.normalization)
            predictions["integer"] = model.predict_cases(test)
    truths = stack_by_case(test, _mask)
    spacing = {sample.case_id: sample.spacing_mm for sample in test}
    names = data.dataset.class_names
    evaluations = {name: evaluate_cases(masks, truths, names, spacing) for name, masks in predictions.items()}
    evaluations["trivial"] = trivial_evaluation(truths, names, spacing)
    run.write_json("evaluation.json", {name: evaluation.to_json() for name, evaluation in evaluations.items()})

    summary = _summary(config, data, trained, evaluations, predictions, graph, run.path)
    summary["budgets"] = (
        [] if graph is None else budgets_reached(graph, config.budgets, trained.float_network, config.fpga)
    )
    summary["proof"] = proof
    summary["validation_dice"] = trained.validation_dice
    summary["time_s"] = _times(trained, run, started)
    run.write_json("summary.json", summary)
    _save_examples(run.path / "examples.npz", test, predictions, evaluations)
    write_report(run.path)
    return summary


def _times(trained: Trained, run: RunDir, started: float) -> dict[str, Any]:
    """Seconds by phase, over all resumes; "total" is of this run alone, without a float phase that was taken over."""
    phases = trained.time_s
    times: dict[str, Any] = {**phases, "qat": phases.get("qat", 0.0) + phases.get("finetune", 0.0)}
    times["float_shared"] = run.has_adopted_float
    own = times["qat"] + (0.0 if run.has_adopted_float else phases.get("float", 0.0))
    return times | {"total": own + time.monotonic() - started}


def _predict(network: UNet, samples: Sequence[Sample], data: Prepared) -> dict[str, Labels]:
    def mask_of(sample: Sample) -> Labels:
        padded, padding = pad_to_multiple(normalize(sample.image, data.normalization), network.size_multiple)
        return unpad(predict_mask(network, padded), padding)

    return stack_by_case(samples, mask_of)


def prove(
    model: IntegerModel, network: UNet, samples: Sequence[Sample], normalization: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Labels]]:
    """Compare the fake-quantized network and the C code with the interpreter, code by code, on ``samples``.

    Returns:
        Counts of codes compared and differing by backend with the bounds of every accumulator, and the fake-quantized
        network's masks (s, h, w) by case.
    """
    graph = model.graph
    fake_quantized = FakeQuantProof(network, graph)
    with ExitStack() as stack:
        verifiers: dict[str, CVerifier] = {}
        if has_compiler():
            verifiers["c"] = stack.enter_context(CVerifier(graph, sanitize=False))
            verifiers["c_sanitized"] = stack.enter_context(CVerifier(graph))

        def mask_of(sample: Sample) -> Labels:
            codes, padding = model.codes(sample.image)
            image = pad_to_multiple(normalize(sample.image, normalization), graph.size_multiple())[0]
            expected = interpreter.trace(graph, codes[None])
            for name, verifier in verifiers.items():
                if name == "c" or verifier.proof.images < SANITIZED_IMAGES:
                    verifier.compare(codes, expected)
            return unpad(fake_quantized.compare(image, expected), padding)

        masks = stack_by_case(samples, mask_of)
        backends = {"fake_quantized": asdict(fake_quantized.count)}
        backends |= {name: asdict(verifier.proof) for name, verifier in verifiers.items()}
    accumulators = [
        {"name": proof.name, "bit_width": proof.bit_width, "low": proof.low, "high": proof.high}
        for proof in ranges.prove(graph)
    ]
    return {"backends": backends, "accumulators": accumulators}, masks


def _summary(
    config: Config,
    data: Prepared,
    trained: Trained,
    evaluations: Mapping[str, Evaluation],
    predictions: Mapping[str, Mapping[str, Labels]],
    graph: IntegerGraph | None,
    folder: Path,
) -> dict[str, Any]:
    samples = data.dataset.samples
    summary: dict[str, Any] = {
        "name": config.name,
        "data": {
            "name": data.dataset.name,
            "cases": {part: len(getattr(data.split, key)) for part, key in SUMMARY_PARTS.items()},
            "images": {part: len(data.parts[key]) for part, key in SUMMARY_PARTS.items()},
            "foreground_fraction": float(np.mean([(_mask(sample) > 0).mean() for sample in samples])),
            "class_names": list(data.dataset.class_names),
        },
        "float": evaluations["float"].summary(),
        "trivial": evaluations["trivial"].summary(),
    }
    whole_bytes = float32_bytes(trained.float_network)
    summary["integer"] = graph is not None
    if graph is None:
        network, budget = trained.float_network, None
        if trained.quantized is not None:
            network, budget = trained.quantized, config.budget
            summary["quantized"] = summary["fake_quantized"] = evaluations["fake_quantized"].summary()
        height, width = _metadata(data, config)["image_size"]
        return summary | network_summary(network, (height, width), whole_bytes, budget)
    differing = differing_pixels(predictions["fake_quantized"], predictions["integer"])
    counts = {"differing_pixels": differing, "pixels": evaluations["integer"].pixels}
    summary["quantized"] = evaluations["integer"].summary() | counts
    summary["fake_quantized"] = evaluations["fake_quantized"].summary()
    return summary | graph_summary(graph, folder, trained.float_network, config.budget)


SUMMARY_PARTS: Mapping[str, Part] = {"train": "train", "val": "validation", "test": "test"}


def _save_examples(
    path: Path,
    samples: Sequence[Sample],
    predictions: Mapping[str, Mapping[str, Labels]],
    evaluations: Mapping[str, Evaluation],
) -> None:
    """The best, median and worst test case by Dice of the deployed model, each by its slice with most foreground."""
    deployed = next(name for name in ("integer", "fake_quantized", "float") if name in predictions)
    ranked = sorted(evaluations[deployed].cases, key=lambda case: -case.mean("dice"))
    picks = [ranked[i] for i in dict.fromkeys((0, len(ranked) // 2, len(ranked) - 1))][:EXAMPLES]
    arrays: dict[str, Any] = {"names": np.array([case.case_id for case in picks])}
    float_dice = {case.case_id: case.mean("dice") for case in evaluations["float"].cases}
    for i, case in enumerate(picks):
        own = [sample for sample in samples if sample.case_id == case.case_id]
        position = int(np.argmax([_mask(sample).astype(bool).sum() for sample in own]))
        image = own[position].image
        arrays |= {
            f"image_{i}": image[len(image) // 2],
            f"truth_{i}": _mask(own[position]),
            f"float_{i}": predictions["float"][case.case_id][position],
            f"integer_{i}": predictions[deployed][case.case_id][position],
            f"dice_float_{i}": float_dice[case.case_id],
            f"dice_integer_{i}": case.mean("dice"),
        }
    np.savez_compressed(path, **arrays)
