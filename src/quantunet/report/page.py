"""One self-contained report.html for a run: no network, nothing invented; a part that is missing says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from quantunet.atomic_file import write_atomically
from quantunet.report import figures, tables
from quantunet.report.run_files import Example, RunFiles, read_run_files
from quantunet.report.tables import count, exact_size, interval, number, size


def write_report(run_dir: Path) -> Path:
    """Write ``report.html`` into the run folder ``run_dir`` and return its path.

    Raises:
        UserError: if the folder is no run, or one of its files is damaged, naming the file.
    """
    page = render_page(read_run_files(run_dir))
    path = run_dir / "report.html"
    write_atomically(path, page.encode("utf-8"))
    return path


def render_page(run: RunFiles) -> str:
    """The whole page as text."""
    parts = (
        ("results", "Results", _results(run)),
        ("images", "Test images", _images(run)),
        ("cases", "Cases", _cases(run)),
        ("widths", "Bit widths", _widths(run)),
        ("training", "Training", _training(run)),
        ("cost", "Cost", _cost(run)),
        ("proof", "Proof", _proof(run)),
        ("setup", "Configuration", _setup(run)),
    )
    navigation = "".join(f'<a href="#{key}">{title}</a>' for key, title, _ in parts)
    sections = "".join(f'<section id="{key}"><h2>{title}</h2>{body}</section>' for key, title, body in parts)
    style = files("quantunet.report").joinpath("style.css").read_text(encoding="utf-8")
    name = escape(run.name)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        # The browser itself refuses any request: a report opened in a hospital stays in it.
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">"
        f"<title>{name} · quantunet report</title><style>{style}</style></head><body>"
        f'<header><p class="kind">quantunet report</p><h1>{name}</h1><p class="about">{_about(run)}</p>'
        f"<nav>{navigation}</nav></header><main>{_tiles(run)}{sections}</main>"
        "<footer><p><strong>Research use; not a medical device.</strong> Quality is that of the integer model on the "
        "test cases. This file needs no network.</p></footer></body></html>\n"
    )


def _about(run: RunFiles) -> str:
    data = run.summary.get("data") or {}
    cases = data.get("cases") or {}
    parts = []
    if data.get("name"):
        parts.append(f"Data: {escape(str(data['name']))}")
    if cases:
        shown = (f"{count(cases.get(key))} {word}" for key, word in
                 (("train", "training"), ("val", "validation"), ("test", "test")))  # fmt: skip
        parts.append(", ".join(shown) + " cases")
    if isinstance(data.get("foreground_fraction"), int | float):
        parts.append(f"{100 * data['foreground_fraction']:.1f} % foreground")
    total = (run.summary.get("time_s") or {}).get("total")
    if isinstance(total, int | float):
        parts.append(f"trained in {_duration(total)}")
    return " · ".join(parts) or "This run has not written its summary yet."


def _tiles(run: RunFiles) -> str:
    summary = run.summary
    before, after = summary.get("float") or {}, summary.get("quantized") or {}
    width, sizes = summary.get("bit_width") or {}, summary.get("size") or {}
    change = tables.paired_differences(run.evaluation).get("dice")
    paired = ""
    if change:
        shift, ci95 = number(change["mean"], 3, signed=True), interval(change["ci95"], 3, signed=True)
        paired = f"<br>change {shift} {ci95}, paired"
    deployed = _deployed_word(run)
    arrow = '<span class="arrow">→</span>'
    dice = f'{number(before.get("dice"))}{arrow}<span class="after">{number(after.get("dice"))}</span>'
    ci95 = f"{interval(before.get('dice_ci95'))} → {interval(after.get('dice_ci95'))} at 95 %{paired}"
    title = f"Test Dice, float → {deployed}"
    if _is_float_only(run):
        title, dice, ci95 = "Test Dice, float network", number(before.get("dice")), interval(before.get("dice_ci95"))
        ci95 = f"{ci95} at 95 %" if ci95 else ""
    elif not after.get("dice_ci95"):
        ci95 = paired.removeprefix("<br>")
    file_bytes, file_title, compared = sizes.get("model_file_bytes"), "Model file", "to the whole file"
    if file_bytes is None and sizes.get("formula_bytes") is not None:
        file_bytes, file_title, compared = sizes["formula_bytes"], "Model, by formula", "no integer model, no file"
    ratio = sizes.get("ratio")
    tiles = (
        (title, dice, ci95),
        (
            "Weight width",
            f"{number(width.get('weights_by_parameter'), 2)} <small>bits</small>",
            f"mean of all weights{_left(width)}<br>{number(width.get('weights_by_layer'), 2)} mean of layers<br>"
            f"activations {number(width.get('activations'), 2)} bits",
        ),
        (
            file_title,
            _big_size(file_bytes),
            f"{count(file_bytes)} bytes<br>weights {size(sizes.get('packed_weight_bytes'))}",
        ),
        (
            "Compression",
            f"{number(ratio, 1)}<small>&times;</small>" if ratio is not None else tables.DASH,
            f"{size(sizes.get('float32_bytes'))} in float32<br>{compared}",
        ),
        ("Codes that differ", *((tables.DASH, "no integer model") if _has_no_integers(run) else _codes(summary))),
    )
    cells = "".join(
        f'<div class="tile{" lead" if i == 0 else ""}"><h3>{title}</h3><p class="big">{big}</p>'
        f'<p class="note">{note}</p></div>'
        for i, (title, big, note) in enumerate(tiles)
    )
    return f'<div class="tiles">{cells}</div>'


def _codes(summary: Mapping[str, Any]) -> tuple[str, str]:
    """Codes that differ from the interpreter's over all backends, and the note below."""
    backends = (summary.get("proof") or {}).get("backends") or {}
    compared = {tables.BACKENDS.get(name, str(name)): r.get("compared") or 0 for name, r in backends.items()}
    if not any(compared.values()):
        return tables.DASH, "no backend compared with the interpreter yet"
    differing = sum(result.get("differing") or 0 for result in backends.values())
    names = escape(", ".join(name for name, codes in compared.items() if codes))
    return count(differing), f"of {count(sum(compared.values()))} compared: {names}"


def _results(run: RunFiles) -> str:
    evaluation = run.evaluation
    known = next((evaluation[key] for key in ("integer", "fake_quantized", "float") if evaluation.get(key)), None)
    if known is None:
        return _none("The test cases have not been evaluated yet.")
    handed_over = "The integer model is what is handed over."
    if _has_no_integers(run):
        handed_over = (
            "This is the float baseline: nothing is quantized."
            if _is_float_only(run)
            else "Simulated: this network has no integer form, so the fake-quantized one was measured."
        )
    body = _lead(f"Mean over the test cases, with the 95 % interval below it. {handed_over}")
    body += tables.results_table(evaluation) + f'<p class="convention">{_conventions(known)}</p>' + _differing(run)
    classes = tables.class_table(evaluation)
    return body + (f"<h3>By class</h3>{classes}" if classes else "")


def _conventions(evaluation: Mapping[str, Any]) -> str:
    cases, unit = len(evaluation.get("cases", [])), escape(str(evaluation.get("distance_unit", "")))
    few = "; with fewer than ten cases somewhat too narrow" if cases < 10 else ""
    score = number(evaluation.get("both_empty_score"), 1)
    both, one, diagonals, distances = (
        count(evaluation.get(key)) for key in ("both_empty", "one_empty", "diagonals", "distances")
    )
    return (
        f"{cases} cases. A case pools the pixels of all its slices; classes are averaged in each case. Interval: "
        f"percentile bootstrap over cases, 10&#8239;000 resamples{few}. HD95 (the larger of the two directed 95th "
        f"percentiles) and ASSD are in {unit}: in 3-D where the distance between slices is known, else averaged over "
        f"the slices with foreground. Empty masks, counted for the best form measured by case and class: both empty, "
        f"overlap {score} and distance 0 ({both}); one empty, overlap 0 ({one}) and distance the image&rsquo;s "
        f"diagonal ({diagonals} of {distances} distances)."
    )


def _differing(run: RunFiles) -> str:
    if _has_no_integers(run):
        return ""
    quantized = run.summary.get("quantized") or {}
    if quantized.get("differing_pixels") is None:
        return _plain("Pixels that differ between the fake-quantized network and the integer model: not counted yet.")
    return _plain(
        f"Pixels that differ between the fake-quantized network and the integer model: "
        f"<b>{count(quantized['differing_pixels'])}</b> of {count(quantized.get('pixels'))}."
    )


def _images(run: RunFiles) -> str:
    if not run.examples:
        return _none("This run has kept no test images.")
    several = any(int(example.truth.max(initial=0)) > 1 for example in run.examples)
    colours = ("", figures.TRUTH, figures.FLOAT, figures.INTEGER)
    word = "Integer model" if not _has_no_integers(run) else "Fake-quantized network"
    keys, captions = ("image", "truth", "float", "integer"), ("Image", "Truth", "Float network", word)
    if _is_float_only(run):
        keys, captions, colours = keys[:3], captions[:3], colours[:3]
    body = _lead(
        "Coloured lines are the named mask, a colour for each class; dotted white lines the truth."
        if several
        else "Outlines of the named mask, over the truth in yellow."
    )
    for rank, example in _chosen(run.examples):
        pictures = figures.example_panels(example)
        after = "" if _is_float_only(run) else f", {_deployed_word(run)} {number(example.dice_integer)}"
        body += (
            f'<div class="example"><h3>{rank} <span>{escape(example.name)}</span><span>Dice: float '
            f"{number(example.dice_float)}{after}</span></h3><div class='panels'>"
        )
        for key, caption, colour in zip(keys, captions, colours, strict=True):
            mark = f'<span class="key" style="background:{colour}"></span>' if colour and not several else ""
            alt = escape(f"{caption} of {example.name}")
            body += f'<figure><img src="{pictures[key]}" alt="{alt}"><figcaption>{mark}{caption}</figcaption></figure>'
        body += "</div></div>"
    return body


def _chosen(examples: Sequence[Example]) -> list[tuple[str, Example]]:
    """Best, median and worst by Dice of the integer model; fewer where there are fewer."""
    ordered = sorted(examples, key=lambda example: -example.dice_integer)
    if len(ordered) == 1:
        return [("Example", ordered[0])]
    worst = [("Worst", ordered[-1])]
    return [("Best", ordered[0])] + ([("Median", ordered[len(ordered) // 2])] if len(ordered) > 2 else []) + worst


def _cases(run: RunFiles) -> str:
    if _is_float_only(run):
        return _none("The float baseline has nothing to compare by case; evaluation.json holds its cases.")
    cases = (run.evaluation.get(tables.deployed(run.evaluation)) or {}).get("cases", [])
    if not cases:
        return _none("There are no per-case results of the integer model yet.")
    reference = {case["case_id"]: case for case in (run.evaluation.get("float") or {}).get("cases", [])}
    word = "fake-quantized network" if _has_no_integers(run) else "integer model"
    body = _lead(f"Distances and all columns without a name of their own belong to the {word}.")
    if all(case["case_id"] in reference for case in cases):
        pairs = [(tables.case_value(reference[c["case_id"]], "dice"), tables.case_value(c, "dice")) for c in cases]
        names = [str(case["case_id"]) for case in cases]
        body += _chart(figures.dice_by_case(names, *zip(*pairs, strict=True), after_name=_deployed_word(run)))
    return body + f'<div class="tall">{tables.case_table(run.evaluation)}</div>'


def _widths(run: RunFiles) -> str:
    if _is_float_only(run):
        return _none("The float baseline has no widths: all numbers have 32 bits.")
    layers = (run.summary.get("bit_width") or {}).get("layers") or []
    body = ""
    if layers:
        body += _lead(
            "Learned width of each layer: the mean over its channels&rsquo; weights, and of the activations it reads."
        )
        body += _chart(figures.width_bars(layers)) + tables.layer_table(layers)
    else:
        body += _none("The widths are not frozen yet.")
    course = figures.width_course(run.records)
    body += "<h3>Course of the widths</h3>"
    if not course:
        return body + _none("This run has recorded no widths during training.")
    return (
        body
        + _lead("Thick: the mean over the network. Thin: each layer, by its place in the network.")
        + _chart(course)
    )


def _training(run: RunFiles) -> str:
    curves = figures.training_curves(run.records)
    if not curves:
        return _none("This run has recorded no training steps.")
    times = run.summary.get("time_s") or {}
    spans = [
        f"{word} {_duration(times[key])}"
        for key, word in (("float", "float"), ("qat", "quantization-aware"), ("total", "in all"))
        if isinstance(times.get(key), int | float)
    ]
    lost = (
        f" Lines of metrics.jsonl that could not be read: {run.unreadable_records}." if run.unreadable_records else ""
    )
    return _lead(f"Time: {', '.join(spans) or 'not recorded'}.{lost}") + _chart(curves)


def _cost(run: RunFiles) -> str:
    cost, sizes = run.summary.get("cost") or {}, run.summary.get("size") or {}
    if not cost and not sizes:
        return _none("The cost of the integer model has not been computed yet.")
    macs, bops = cost.get("macs"), cost.get("bops")
    average = f" <small>{bops / macs:.1f} a MAC</small>" if macs and bops is not None else ""
    file, weights = sizes.get("model_file_bytes"), sizes.get("packed_weight_bytes")
    rest = file - weights if file is not None and weights is not None else None
    ratio = f"<b>{number(sizes['ratio'], 2)}&times;</b>" if sizes.get("ratio") is not None else tables.DASH
    arithmetic = [
        ["Multiply-accumulates (MACs)", count(macs)],
        ["Bit operations (BOPs)", count(bops) + average],
        ["Peak activation memory", exact_size(cost.get("peak_activation_bytes"))],
    ]
    stored = [
        ["Float network, 4 bytes a parameter", exact_size(sizes.get("float32_bytes"))],
        ["Packed weights", exact_size(weights)],
        ["Rest of the file", exact_size(rest)],
        ["Model file", f"<b>{exact_size(file)}</b>"],
        ["Float network / model file", ratio],
    ]
    measured = "Sizes are lengths of real bytes."
    if _has_no_integers(run):
        stored[2:] = [["Model, by formula", exact_size(sizes.get("formula_bytes"))], ["Float network / formula", ratio]]
        measured = (
            "There is no integer model: sizes are by formula, with 4 bytes for each number that is not quantized."
        )
    budgets = run.summary.get("budgets") or []
    return (
        (tables.budget_table(budgets) if budgets else "")
        + f'<div class="two">{tables.table(["Arithmetic and memory, one image", ""], arithmetic)}'
        f"{tables.table(['Size', ''], stored)}</div>"
        "<p class='convention'>BOPs = MACs &times; weight bits &times; activation bits. "
        f"{measured}</p>"
    )


def _proof(run: RunFiles) -> str:
    if _has_no_integers(run):
        return _none("There is no integer model, hence nothing to prove.")
    proof = run.summary.get("proof") or {}
    backends, accumulators = proof.get("backends") or {}, proof.get("accumulators") or []
    body = _lead("Each backend ran the same inputs as the integer interpreter; equal means every code, not nearly so.")
    body += (
        tables.proof_table(backends) if backends else _none("No backend has been compared with the interpreter yet.")
    )
    body += "<h3>Accumulators</h3>"
    if not accumulators:
        return body + _none("The bounds of the accumulators have not been proven yet.")
    widest = max(accumulators, key=lambda a: a.get("bit_width") or 0)
    body += _lead(
        f"The widest of {len(accumulators)} needs {count(widest.get('bit_width'))} bits of 32 "
        f"({escape(str(widest.get('name', '')))}). The bounds hold for every possible input and order of summation."
    )
    return body + f"<details><summary>All bounds</summary>{tables.accumulator_table(accumulators)}</details>"


def _setup(run: RunFiles) -> str:
    body = (
        f"<details open><summary>config.yaml</summary><pre>{escape(run.config.rstrip())}</pre></details>"
        if run.config
        else _none("This run has no config.yaml.")
    )
    if not run.environment:
        return body + _none("This run has no environment.json.")
    return body + f"<details><summary>Environment</summary>{tables.key_value_table(run.environment)}</details>"


def _has_no_integers(run: RunFiles) -> bool:
    """Whether the finished run ends without an integer model; runs of before this was written down have one."""
    return not run.summary.get("integer", True)


def _left(width: Mapping[str, Any]) -> str:
    """What is said where channels have been removed."""
    share = width.get("weights_left", 1.0)
    return "" if share == 1 else f", {100 * share:.0f} % left at {number(width.get('weights_by_parameter_left'), 2)}"


def _is_float_only(run: RunFiles) -> bool:
    return _has_no_integers(run) and "quantized" not in run.summary


def _deployed_word(run: RunFiles) -> str:
    return "fake-quantized" if _has_no_integers(run) else "integer"


def _big_size(value: Any) -> str:
    """A size with its unit set small."""
    text, _, unit = size(value).rpartition(" ")
    return f"{text} <small>{unit}</small>" if isinstance(value, int | float) else tables.DASH


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _lead(text: str) -> str:
    return f'<p class="lead">{text}</p>'


def _plain(text: str) -> str:
    return f'<p class="plain">{text}</p>'


def _none(text: str) -> str:
    return f'<p class="none">{text}</p>'


def _chart(svg: str) -> str:
    return f'<figure class="chart">{svg}</figure>'
