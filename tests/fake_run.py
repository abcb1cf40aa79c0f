"""A complete run folder drawn by hand, for tests of the report: its numbers come from no training."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from scipy.ndimage import binary_dilation, gaussian_filter

from quantunet.evaluate import evaluate_cases, trivial_evaluation

LAYERS = ("down1.conv1", "down1.conv2", "down2.conv1", "down2.conv2", "bottom.conv1", "bottom.conv2", "up2.upsample",
          "up2.conv1", "up2.conv2", "up1.upsample", "up1.conv1", "up1.conv2", "head")  # fmt: skip


def write_fake_run(folder: Path, class_names: tuple[str, ...] = ("background", "lesion"), cases: int = 7) -> Path:
    """Fill ``folder`` with every file of a finished run: ellipses as truth, ragged ones as predictions."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    truths, integer, floats, images = {}, {}, {}, {}
    for i in range(cases):
        case_id = f"patient_{i:02d}"
        truths[case_id], images[case_id] = _draw(rng, len(class_names) - 1)
        floats[case_id] = _roughen(rng, truths[case_id], 0.6 + 0.12 * i)
        integer[case_id] = _roughen(rng, truths[case_id], 0.7 + 0.14 * i)
    spacing = dict.fromkeys(truths, (3.0, 0.7, 0.7))
    evaluation = {
        "float": evaluate_cases(floats, truths, class_names, spacing).to_json(),
        "fake_quantized": evaluate_cases(integer, truths, class_names, spacing).to_json(),
        "integer": evaluate_cases(integer, truths, class_names, spacing).to_json(),
        "trivial": trivial_evaluation(truths, class_names, spacing).to_json(),
    }
    _write(folder / "evaluation.json", evaluation)
    _write(folder / "summary.json", _summary(rng, evaluation))
    _write(
        folder / "environment.json", {"python": "3.11", "packages": {"numpy": "2.4"}, "seed": 0, "data": {"sha": "ab"}}
    )
    (folder / "config.yaml").write_text("data:\n  path: phantom  # a <drawn> set & more\nquantizer: power_of_two\n")
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in _records(rng)) + '{"step": 9')
    arrays: dict[str, object] = {"names": np.array([f"{case_id}, slice 2" for case_id in truths])}
    for i, (case_id, case) in enumerate(zip(truths, evaluation["integer"]["cases"], strict=True)):
        arrays |= {f"image_{i}": images[case_id][1], f"truth_{i}": truths[case_id][1]}
        arrays |= {f"float_{i}": floats[case_id][1], f"integer_{i}": integer[case_id][1]}
        dice = [evaluation[key]["cases"][i]["classes"][class_names[1]]["dice"] for key in ("float", "integer")]
        arrays |= {f"dice_float_{i}": np.float64(dice[0]), f"dice_integer_{i}": np.float64(dice[1])}
        assert case["case_id"] == case_id
    np.savez_compressed(folder / "examples.npz", **arrays)  # pyright: ignore[reportArgumentType]
    return folder


def _draw(rng: np.random.Generator, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels (3, 96, 128) with an ellipse for each class, and a noisy image of them."""
    labels = np.zeros((3, 96, 128), np.uint8)
    rows, columns = np.mgrid[:96, :128]
    for label in range(1, classes + 1):
        row, column, height, width = rng.uniform((30, 30, 10, 12), (66, 98, 22, 26))
        for s in range(3):
            wave = 1 + 0.15 * np.sin(5 * np.arctan2(rows - row, columns - column) + s)
            labels[s][((rows - row) / height) ** 2 + ((columns - column) / width) ** 2 < wave] = label
    image = gaussian_filter(labels * 60.0 + 80, (0, 1.5, 1.5)) + rng.normal(0, 14, labels.shape)
    return labels, image + 20 * gaussian_filter(rng.normal(0, 6, labels.shape), (0, 7, 7))


def _roughen(rng: np.random.Generator, labels: np.ndarray, amount: float) -> np.ndarray:
    """Labels with their edge moved where a smooth noise is high."""
    noise = gaussian_filter(rng.normal(0, 1, labels.shape), (0, 4, 4)) * 14
    result = labels.copy()
    for label in range(1, int(labels.max()) + 1):
        edge = binary_dilation(labels == label, iterations=3)
        result[edge & (noise > 2.6 - amount) & (result == 0)] = label
        result[(labels == label) & (noise < -2.6 + amount)] = 0
    return result


def _summary(rng: np.random.Generator, evaluation: dict) -> dict:
    parameters = [160, 2320, 4640, 9248, 18496, 36928, 8224, 18464, 9248, 2064, 4624, 2320, 17]
    widths = [5.5, 3.25, 2.8, 2.5, 2.1, 1.9, 2.2, 2.3, 2.6, 3.0, 2.9, 3.6, 6]
    layers = []
    for name, count, width in zip(LAYERS, parameters, widths, strict=True):
        macs, activation = count * int(rng.integers(900, 4000)), int(rng.integers(3, 7))
        packed = int(np.ceil(count * width / 8))
        layers.append({"name": name, "weight": width, "activation": activation, "parameters": count, "macs": macs,
                       "packed_bytes": packed})  # fmt: skip
    layers[-1]["activation"] = None
    packed = sum(layer["packed_bytes"] for layer in layers)
    macs, total = sum(layer["macs"] for layer in layers), sum(parameters)

    def row(key: str) -> dict:
        mean = evaluation[key]["mean"]
        return {m: v["mean"] for m, v in mean.items()} | {"dice_ci95": mean["dice"]["ci95"]}

    return {
        "data": {"name": "drawn ellipses", "cases": {"train": 20, "val": 5, "test": 7}, "foreground_fraction": 0.083},
        "float": row("float"),
        "fake_quantized": row("fake_quantized"),
        "quantized": row("integer") | {"differing_pixels": 0, "pixels": 258048},
        "trivial": {metric: value["mean"] for metric, value in evaluation["trivial"]["mean"].items()},
        "validation_dice": {"float": 0.875, "quantized": 0.8125},
        "bit_width": {
            "weights_by_layer": float(np.mean(widths)),
            "activations": 4.4,
            "layers": layers,
            "weights_by_parameter": float(np.average(widths, weights=parameters)),
        },
        "size": {
            "float32_bytes": 4 * total,
            "packed_weight_bytes": packed,
            "model_file_bytes": packed + 8211,
            "ratio": 4 * total / (packed + 8211),
        },
        "cost": {"macs": macs, "bops": int(macs * 11.7), "peak_activation_bytes": 147456},
        "time_s": {"float": 61.0, "qat": 143.4, "total": 211.9},
        "budgets": [
            {"kind": "file", "budget": 65536.0, "reached": 65000.0, "text": "64 KiB"},
            {"kind": "ram", "budget": 100000.0, "reached": 140000.0, "text": "ram 97.66 KiB"},
        ],
        "proof": {
            "backends": {
                "c": {"compared": 41943040, "differing": 0},
                "fake_quantized": {"compared": 41943040, "differing": 0},
            },
            "accumulators": [
                {"name": name, "bit_width": 12 + i, "low": -(2 ** (11 + i)), "high": 2 ** (11 + i) - 1}
                for i, name in enumerate(LAYERS)
            ],
        },
    }


def _records(rng: np.random.Generator) -> list[dict]:
    records = []
    for step in range(0, 900, 5):
        phase = "float" if step < 350 else "qat" if step < 750 else "finetune"
        bce = 0.5 * np.exp(-step / 150) + 0.06 + (0.05 if phase == "qat" else 0) * np.exp(-(step - 350) / 90)
        bce, dice = float(bce + rng.normal(0, 0.012)), float(1.3 * bce + 0.03 + rng.normal(0, 0.012))
        record = {"phase": phase, "step": step, "bce": bce, "dice_loss": dice, "loss": bce + dice, "time_s": step / 4}
        record |= {"overlap_loss": bce + dice, "lr": 1e-3 * (1 + np.cos(np.pi * (step % 350) / 400)) / 2 + 1e-5}
        if phase != "float":
            done = min(1.0, (step - 350) / 330)
            start = 8 - 5.4 * done**0.7
            record |= {"bit_loss": start / 8, "bit_loss_weight": 0.05 + 0.3 * done}
            record |= {"weight_bits": start, "activation_bits": 8 - 3.4 * done}
            if step % 25 == 0:
                ends = {name: 2 + 4 * abs(np.cos(i)) for i, name in enumerate(LAYERS)}
                record["layers"] = {n: [8 - (8 - e) * done**0.8, 8 - (8 - e) * 0.7 * done] for n, e in ends.items()}
        if step % 50 == 0:
            record["val_dice"] = float(0.91 - 0.5 * np.exp(-step / 120) + rng.normal(0, 0.006))
        records.append(record)
    return records


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value))
