"""Tables as HTML: numbers formatted in one way, all text escaped, and a dash where a value is missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from math import isfinite
from typing import Any

from quantunet.metrics.intervals import paired_difference_ci95

PREDICTORS = {
    "float": "Float network",
    "fake_quantized": "Fake-quantized",
    "integer": "Integer model",
    "trivial": "All background",
}
METRICS = {
    "dice": "Dice",
    "iou": "IoU",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "hd95": "HD95",
    "assd": "ASSD",
    "pixel_accuracy": "Pixel accuracy",
    "background_dice": "Background Dice",
}
BACKENDS: dict[Any, str] = {
    "c": "C99 engine",
    "c_sanitized": "C99 engine under sanitizers",
    "fake_quantized": "fake-quantized network",
}
DISTANCES = ("hd95", "assd")
DASH = '<span class="missing">&ndash;</span>'


def deployed(evaluation: Mapping[str, Any]) -> str:
    """The predictor that a run hands over: the integer model; where it has none, the fake-quantized network."""
    return next((key for key in ("integer", "fake_quantized") if evaluation.get(key)), "integer")


def table(head: Sequence[str], rows: Iterable[Sequence[str]], css: str = "", row_css: Sequence[str] = ()) -> str:
    """A table from cells that are HTML already; the first column is text, all others are numbers."""
    header = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = ""
    for i, row in enumerate(rows):
        kind = row_css[i] if i < len(row_css) else ""
        cells = f'<th scope="row">{row[0]}</th>' + "".join(f"<td>{cell}</td>" for cell in row[1:])
        body += f'<tr class="{kind}">{cells}</tr>' if kind else f"<tr>{cells}</tr>"
    return (
        f'<div class="scroll"><table class="{css}"><thead><tr>{header}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def number(value: Any, digits: int = 3, signed: bool = False) -> str:
    """A number with a fixed count of decimals, or a dash."""
    if not isinstance(value, int | float) or not isfinite(value):
        return DASH
    value = round(value, digits) or 0.0  # what rounds to zero has no sign
    text = f"{value:+.{digits}f}" if signed and value else f"{value:.{digits}f}"
    return text.replace("-", "&minus;")


def count(value: Any) -> str:
    """A whole number with thin spaces between thousands, or a dash."""
    return f"{value:,.0f}".replace(",", "\u202f").replace("-", "&minus;") if isinstance(value, int | float) else DASH


def size(value: Any) -> str:
    """Bytes in the unit that reads best."""
    if not isinstance(value, int | float):
        return DASH
    if value < 1024:
        return f"{value:.0f} B"
    return f"{value / 1024:.1f} KiB" if value < 1024**2 else f"{value / 1024**2:.2f} MiB"


def exact_size(value: Any) -> str:
    """Bytes in the unit that reads best, then exactly."""
    return f"{size(value)} <small>{count(value)} bytes</small>" if isinstance(value, int | float) else DASH


def interval(ci95: Any, digits: int = 3, signed: bool = False) -> str:
    """A 95 % interval, or nothing where there is none."""
    if not isinstance(ci95, Sequence) or len(ci95) != 2:
        return ""
    return f"[{number(ci95[0], digits, signed)}, {number(ci95[1], digits, signed)}]"


def estimate(value: Any, metric: str, signed: bool = False) -> str:
    """Mean and interval of one metric in a cell."""
    if not isinstance(value, Mapping):
        return DASH
    digits = 2 if metric in DISTANCES else 3
    ci95 = interval(value.get("ci95"), digits, signed)
    return number(value.get("mean"), digits, signed) + (f'<small class="ci">{ci95}</small>' if ci95 else "")


def results_table(evaluation: Mapping[str, Any]) -> str:
    """All predictors side by side, and integer minus float over the same cases."""
    rows, kinds = [], []
    for key, name in PREDICTORS.items():
        scores = evaluation.get(key)
        if isinstance(scores, Mapping):
            mean = scores.get("mean", {})
            rows.append([name, *(estimate(mean.get(metric), metric) for metric in METRICS)])
            kinds.append({deployed(evaluation): "strong", "trivial": "quiet"}.get(key, ""))
    differences = paired_differences(evaluation)
    if differences:
        name = "Integer" if deployed(evaluation) == "integer" else "Fake-quantized"
        rows.append([f"{name} &minus; float", *(estimate(differences.get(m), m, signed=True) for m in METRICS)])
        kinds.append("difference")
    return table(["Predictor", *_metric_heads(evaluation, METRICS)], rows, "results", kinds)


def paired_differences(evaluation: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Deployed minus float by metric, paired by case; empty if one of them is missing or the cases differ."""
    by_predictor = [
        {case["case_id"]: case for case in (evaluation.get(key) or {}).get("cases", [])}
        for key in (deployed(evaluation), "float")
    ]
    if not by_predictor[0] or by_predictor[0].keys() != by_predictor[1].keys():
        return {}
    differences = {}
    for metric in METRICS:
        integer, reference = ([case_value(cases[i], metric) for i in by_predictor[0]] for cases in by_predictor)
        if None not in integer and None not in reference:
            mean, ci95 = paired_difference_ci95(integer, reference)
            differences[metric] = {"mean": mean, "ci95": ci95}
    return differences


def case_value(case: Mapping[str, Any], metric: str) -> Any:
    """A metric of one case: its own, or the mean over its foreground classes; None where it is missing."""
    if metric in case:
        return case[metric]
    values = [scores.get(metric) for scores in case.get("classes", {}).values()]
    return sum(values) / len(values) if values and None not in values else None


def class_table(evaluation: Mapping[str, Any]) -> str:
    """One row for each foreground class and predictor; empty text if there is only one class."""
    shown = {k: n for k, n in PREDICTORS.items() if k != "trivial" and isinstance(evaluation.get(k), Mapping)}
    names = list(dict.fromkeys(name for key in shown for name in evaluation[key].get("classes", {})))
    if len(names) < 2:
        return ""
    metrics = [metric for metric in METRICS if metric not in ("pixel_accuracy", "background_dice")]
    rows, kinds = [], []
    for name in names:
        for key, predictor in shown.items():
            scores = evaluation[key].get("classes", {}).get(name, {})
            first = f"{escape(name)} <small>{predictor}</small>"
            rows.append([first, *(estimate(scores.get(metric), metric) for metric in metrics)])
            kinds.append("strong" if key == deployed(evaluation) else "")
    return table(["Class", *_metric_heads(evaluation, metrics)], rows, "results", kinds)


def case_table(evaluation: Mapping[str, Any]) -> str:
    """One row a case: Dice of the float network and the deployed model, and the deployed model's other metrics."""
    reference = {case["case_id"]: case for case in (evaluation.get("float") or {}).get("cases", [])}
    rows = []
    after_name = "integer" if deployed(evaluation) == "integer" else "fake-quantized"
    for case in (evaluation.get(deployed(evaluation)) or {}).get("cases", []):
        before, after = case_value(reference.get(case["case_id"], {}), "dice"), case_value(case, "dice")
        change = after - before if before is not None and after is not None else None
        others = [metric for metric in METRICS if metric != "dice"]
        truth_px = sum(scores.get("truth_px", 0) for scores in case.get("classes", {}).values())
        rows.append(
            [escape(str(case["case_id"])), count(truth_px), number(before), f"<b>{number(after)}</b>"]
            + [number(change, signed=True)]
            + [number(case_value(case, metric), 2 if metric in DISTANCES else 3) for metric in others]
        )
    heads = _metric_heads(evaluation, [metric for metric in METRICS if metric != "dice"])
    return table(["Case", "Truth, px", "Dice, float", f"Dice, {after_name}", "Change", *heads], rows, "cases")


def layer_table(layers: Sequence[Mapping[str, Any]]) -> str:
    """One row a layer, and the totals."""
    rows = [
        [escape(str(layer.get("name", ""))), number(layer.get("weight"), 2), number(layer.get("activation"), 2)]
        + [count(layer.get(key)) for key in ("parameters", "macs", "packed_bytes")]
        for layer in layers
    ]
    totals = [sum(layer.get(key) or 0 for layer in layers) for key in ("parameters", "macs", "packed_bytes")]
    rows.append(["All layers", "", "", *(count(total) for total in totals)])
    head = ["Layer", "Weight bits", "Activation bits", "Parameters", "MACs", "Packed bytes"]
    return table(head, rows, "layers", [""] * len(layers) + ["total"])


BUDGET_NAMES = {
    "bits": "Average width, bits a weight of the float network",
    "file": "Model file",
    "flash": "Flash: code and constants of the C project",
    "ram": "RAM: static memory of the C project",
    "macs": "Multiply-accumulates",
    "bops": "Bit operations",
    "lut": "Look-up tables of the Verilog design, by formula",
    "latency": "Milliseconds of the host engine, by formula",
}


def budget_table(budgets: Sequence[Mapping[str, Any]]) -> str:
    """Each limit, what the deployed model takes of it, and whether that is within 3 % above it."""
    rows = []
    for each in budgets:
        kind, limit, reached = str(each.get("kind")), float(each["budget"]), float(each["reached"])
        unit = {
            "bits": lambda x: number(x, 3),
            "macs": count,
            "bops": count,
            "lut": count,
            "latency": lambda x: f"{number(x, 3)} ms",
        }.get(kind, size)
        verdict = ("good", "met") if reached <= 1.03 * limit else ("bad", "not met")
        pill = f'<span class="pill {verdict[0]}">{verdict[1]}</span>'
        used = f"{100 * reached / limit:.1f} %"
        rows.append([escape(BUDGET_NAMES.get(kind, kind)), unit(limit), f"<b>{unit(reached)}</b>", used, pill])
    return table(["Budget", "Limit", "Reached", "Used", ""], rows, "budgets")


def proof_table(backends: Mapping[str, Any]) -> str:
    """Codes compared with the interpreter's, and codes that differ, for each backend."""
    rows = []
    for name, result in backends.items():
        compared, differing = result.get("compared"), result.get("differing")
        if not compared:
            verdict = '<span class="pill open">nothing compared</span>'
        elif differing == 0:
            verdict = '<span class="pill good">equal</span>'
        else:
            verdict = '<span class="pill bad">differs</span>'
        rows.append([escape(BACKENDS.get(name, name)), count(compared), count(differing), verdict])
    return table(["Against the interpreter", "Codes compared", "Codes differing", "Verdict"], rows, "proof")


def accumulator_table(accumulators: Sequence[Mapping[str, Any]]) -> str:
    """Proven bounds of each accumulator, for every possible input."""
    rows = [
        [escape(str(a.get("name", ""))), count(a.get("low")), count(a.get("high")), count(a.get("bit_width"))]
        for a in accumulators
    ]
    return table(["Accumulator", "Lowest", "Highest", "Bits needed of 32"], rows)


def key_value_table(values: Mapping[str, Any]) -> str:
    """A nested mapping as rows of dotted keys."""
    return table(["Key", "Value"], [[escape(k), escape(v)] for k, v in _flatten(values)], "keys")


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else str(value)


def _metric_heads(evaluation: Mapping[str, Any], metrics: Iterable[str]) -> list[str]:
    unit = next(
        (e["distance_unit"] for e in evaluation.values() if isinstance(e, Mapping) and "distance_unit" in e), ""
    )
    return [METRICS[m] + (f", {escape(unit)}" if m in DISTANCES and unit else "") for m in metrics]
