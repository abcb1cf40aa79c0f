"""Two flaws of published figures, measured: pixel accuracy in place of Dice, and slices of one patient on both sides.

Accuracy: reads the summary.json files below the given run folders; trains nothing.
Leak: the same small float network trained twice a seed on LGG. The test slices are the same both times: every other
slice of 3 patients of 10. By patient, it trains on slices of other patients; by slice, on as many slices drawn from all
that are not test slices, so that neighbours of test slices are among them, as in a random split of slices.
Run: python benchmarks/leak.py [--steps 300] [--seeds 1] [--data FOLDER] [--runs FOLDER ...] [--threads N]
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from quantunet.data import DataConfig, Dataset, Sample, normalize, pad_to_multiple, read_dataset, unpad
from quantunet.evaluate import Evaluation, evaluate_cases, trivial_evaluation
from quantunet.integer_model import stack_by_case
from quantunet.losses import segmentation_loss
from quantunet.train.batches import build_training_set, sample_batch
from quantunet.train.build import build_float_network
from quantunet.train.config import AugmentationConfig, NetworkConfig
from quantunet.train.loop import predict_mask

LGG = Path("../shared/data/lgg_kaggle3m")
TEST_PATIENTS = 3
LEVELS = 4
BATCH, CROP_PX = 8, 96


def accuracy_rows(folders: Sequence[Path]) -> list[tuple[str, str, float, float]]:
    """(data, predictor, pixel accuracy, Dice) of all background and of the trained networks of each run, once each."""
    rows: dict[tuple[str, str], tuple[float, float]] = {}
    for path in sorted(path for folder in folders for path in folder.rglob("summary.json")):
        summary = json.loads(path.read_text(encoding="utf-8"))
        data = summary["data"]["name"]
        for key, label in (("trivial", "all background"), ("float", "float32"), ("quantized", "")):
            if key in summary:
                name = label if key == "trivial" else f"{label or summary['name']}, {path.parent.name}"
                rows[data, name] = (summary[key]["pixel_accuracy"], summary[key]["dice"])
    return [(data, name, *values) for (data, name), values in rows.items()]


def draw_parts(dataset: Dataset, seed: int) -> tuple[list[Sample], dict[str, list[Sample]]]:
    """The test slices, and by kind of split the training slices, equally many."""
    rng = np.random.default_rng(seed)
    patients = rng.permutation(dataset.case_ids)
    held_out = set(patients[:TEST_PATIENTS].tolist())
    inside = [sample for sample in dataset.samples if sample.case_id in held_out]
    by_patient = [sample for sample in dataset.samples if sample.case_id not in held_out]
    test, rest = inside[::2], [*inside[1::2], *by_patient]
    drawn = rng.permutation(len(rest))[: len(by_patient)]
    return test, {"by patient": by_patient, "by slice": [rest[k] for k in drawn]}


def train_and_test(
    train: Sequence[Sample], test: Sequence[Sample], names: Sequence[str], steps: int, seed: int
) -> Evaluation:
    """A float U-Net trained on ``train``, evaluated on ``test`` by patient; z-scores by image."""
    kind: Mapping[str, str] = {"kind": "image"}
    network = build_float_network(NetworkConfig(base_channels=8, levels=LEVELS), len(train[0].image), len(names), seed)
    data = build_training_set([normalize(s.image, kind) for s in train], [_mask(s) for s in train])
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=1e-2)
    network.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * 0.5 * (1 + math.cos(math.pi * step / steps))
        images, target = sample_batch(data, seed, step, range(BATCH), CROP_PX, 0.6, AugmentationConfig())
        segmentation_loss(network(images), target, 1.0, 1.0).total.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    network.eval()

    def predict(sample: Sample) -> np.ndarray:
        padded, padding = pad_to_multiple(normalize(sample.image, kind), 2 ** (LEVELS - 1))
        return unpad(predict_mask(network, padded), padding)

    spacing = {sample.case_id: sample.spacing_mm for sample in test}
    return evaluate_cases(stack_by_case(test, predict), stack_by_case(test, _mask), names, spacing)


def _mask(sample: Sample) -> np.ndarray:
    assert sample.mask is not None, sample.name
    return sample.mask


def measure_leak(folder: Path, steps: int, seeds: int) -> None:
    """Print Dice by kind of split, for each seed and in the mean."""
    dataset = read_dataset(DataConfig.model_validate({"path": folder, "reader": "kaggle_3m"}))
    found: dict[str, list[float]] = {}
    for seed in range(seeds):
        test, parts = draw_parts(dataset, seed)
        truths = stack_by_case(test, _mask)
        nothing = trivial_evaluation(truths, dataset.class_names, dict.fromkeys(truths))
        print(f"seed {seed}: {len(test)} test slices of {TEST_PATIENTS} patients; all background: pixel accuracy "
              f"{nothing.mean['pixel_accuracy'].mean:.4f}, Dice {nothing.dice:.4f}")  # fmt: skip
        for kind, train in parts.items():
            result = train_and_test(train, test, dataset.class_names, steps, seed)
            found.setdefault(kind, []).append(result.dice)
            accuracy = result.mean["pixel_accuracy"].mean
            print(f"  split {kind}: {len(train)} slices, Dice {result.dice:.4f}, pixel accuracy {accuracy:.4f}")
    means = {kind: float(np.mean(values)) for kind, values in found.items()}
    print(f"mean over {seeds} seed(s), {steps} steps: " + ", ".join(f"{k} {v:.4f}" for k, v in means.items())
          + f"; the leak is worth {means['by slice'] - means['by patient']:+.4f} Dice")  # fmt: skip


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--data", type=Path, default=LGG, help="LGG in the kaggle_3m layout")
    parser.add_argument("--runs", type=Path, nargs="*", default=[], help="folders of finished runs, for the accuracy")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for data, name, accuracy, dice in accuracy_rows(options.runs):
        print(f"{data}, {name}: pixel accuracy {accuracy:.4f}, Dice {dice:.4f}")
    if options.steps and not options.data.exists():
        print(f"{options.data}: no such folder: the leak is not measured (--data names one)")
    elif options.steps:
        measure_leak(options.data, options.steps, options.seeds)


if __name__ == "__main__":
    main()
