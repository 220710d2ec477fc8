"""The report for people: one self-contained page, readable offline, on paper, by day and by night."""

from __future__ import annotations

import html
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from netparity.report.charts import Series, decades, dot_chart, figure_text, legend, line_chart

_FLOAT64 = Series("float64: JAX against PyTorch", "float64", "diamond")
_JAX = Series("float32 JAX, largest error", "jax", "circle")
_TORCH = Series("float32 PyTorch, largest error", "torch", "square")
_BOUND = Series("bound on float32", "bound", "bar")
_LAYER_MARKS = (_FLOAT64, _TORCH, _JAX, _BOUND)
_LAYER_KEYS = {
    _FLOAT64.name: "float64_error",
    _JAX.name: "float32_jax_max",
    _TORCH.name: "float32_torch_max",
    _BOUND.name: "bound",
}
_QUANTITIES = {
    "output": "Output",
    "vjp_input": "Gradient of the input",
    "vjp_kernel": "Gradient of the kernel",
    "vjp_bias": "Gradient of the bias",
}
_MARKED = {True: '<span class="pass">✓</span>', False: '<span class="fail">✗ fails</span>'}
# A page that may load nothing at all.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


class Markup(str):
    """Text that is markup already and must not be escaped again."""


def write_html(report: Mapping[str, Any], path: pathlib.Path) -> None:
    """Writes a parity report as one page that needs no network and no script.

    Parts that a run left out (a dtype, the trajectory, the faults) are left out of the page as well.

    Args:
      report: what ``report.json`` holds.
      path: the page; made or replaced.
    """
    models = report["models"]
    style = pathlib.Path(__file__).with_suffix(".css").read_text(encoding="utf-8")
    body = [_verdict(report)]
    body += [_headline(name, model) for name, model in models.items()]
    body.append(_environment(report.get("environment", {})))
    body += [_model(name, model) for name, model in models.items()]
    page = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"/>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}"/>'
        f"<title>Parity of JAX and PyTorch</title><style>\n{style}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )
    path.write_text(page, encoding="utf-8")


def _text(value: Any) -> str:
    return value if isinstance(value, Markup) else html.escape(str(value))


def _anchor(name: str) -> str:
    return html.escape("model-" + "-".join(name.split()))


def _verdict(report: Mapping[str, Any]) -> str:
    models = report["models"]
    links = "".join(f'<a href="#{_anchor(name)}">{_text(name)}</a>' for name in models)
    if report["passed"]:
        state, names = "holds", _text(", ".join(models))
        verdict = f"<strong>Parity holds</strong>The JAX and the PyTorch program compute the same function: {names}."
    else:
        reasons = [f"<li>{_text(name)}: {_text(r)}</li>" for name, model in models.items() for r in _failures(model)]
        state = "fails"
        verdict = f"<strong>Parity fails</strong><ul>{''.join(reasons) or '<li>see below</li>'}</ul>"
    return (
        "<header><h1>Parity of JAX and PyTorch</h1>"
        '<p class="soft">Errors are relative to the scale of what is compared: largest errors to its largest value, '
        "root-mean-square errors to its root mean square. float64 holds one framework against the other; float32 "
        "holds each against the float64 truth.</p>"
        f"<nav>{links}</nav></header>"
        f'<section class="verdict {state}">{verdict}</section>'
    )


def _failures(model: Mapping[str, Any]) -> list[str]:
    """What speaks against a model, worst kind first, a line each."""
    lines = [f"{r['stage']} {r['quantity']} is out of bounds" for r in model.get("layers") or [] if not r["passed"]]
    lines += [
        f"{c['level']}: {c['name']}{' (' + c['dtype'] + ')' if c.get('dtype') else ''} fails"
        for c in model.get("checks") or []
        if c["judged"] and not c["passed"]
    ]
    trajectory, faults = model.get("trajectory"), model.get("faults")
    if trajectory and not trajectory["passed"]:
        lines.append("the trajectories part faster than their controls")
    if faults:
        missed = [fault["name"] for fault in faults["table"] if not fault["caught"]]
        lines += [f"planted fault not caught: {name}" for name in missed]
        if faults["false_alarms"]:
            lines.append(f"false alarms on right programs: {faults['false_alarms']}")
    return lines


def _headline(name: str, model: Mapping[str, Any]) -> str:
    trajectory, faults = model.get("trajectory"), model.get("faults")
    judged = [r["passed"] for r in model.get("layers") or []]
    judged += [c["passed"] for c in model.get("checks") or [] if c["judged"]]
    cards = [
        (figure_text(model.get("float64_max_relative_error")), "largest float64 error of any layer or gradient"),
        (_ratio(model.get("float32_error_ratio_jax_over_torch")), "float32 error, JAX over PyTorch, worst layer"),
        (f"{sum(judged)} of {len(judged)}", "layers and checks within their limits"),
    ]
    if model.get("trajectory_float64_max_relative_error") is not None:
        note = f"largest float64 error along {len(trajectory['steps'])} training steps" if trajectory else ""
        note = note or "largest float64 error along the trajectory"
        cards.append((figure_text(model["trajectory_float64_max_relative_error"]), note))
    if faults:
        score = f"{faults['caught']} of {faults['planted']}"
        alarms = f"false alarms on {faults['right_programs']} right programs: {faults['false_alarms']}"
        cards.append((score, f"planted faults caught, {faults['located']} located; {alarms}"))
    boxes = "".join(f'<div class="card"><b>{_text(figure)}</b><span>{_text(n)}</span></div>' for figure, n in cards)
    mark = _MARKED[model["passed"]]
    return f"<section><h3>{_text(name)} {mark}</h3>{_shape(model)}<div class='cards'>{boxes}</div></section>"


def _shape(model: Mapping[str, Any]) -> str:
    parts = []
    if model.get("image_shape"):
        parts.append("images " + "×".join(str(n) for n in model["image_shape"]))
    for key, label in (("batch_size", "batch size"), ("width", "width"), ("steps", "training steps")):
        if model.get(key) is not None:
            parts.append(f"{label} {model[key]:g}")
    return f'<p class="soft">{_text(", ".join(parts))}</p>' if parts else ""


def _ratio(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}×"


def _environment(environment: Mapping[str, Any]) -> str:
    pairs = []
    for key, value in environment.items():
        label = {"cpu": "processor", "seconds": "time taken"}.get(key, key.replace("_", " "))
        if isinstance(value, Mapping):
            value = ", ".join(f"{k} {v}" for k, v in value.items())
        elif key == "seconds":
            value = f"{value:.0f} s"
        pairs.append(f"<dt>{_text(label)}</dt><dd>{_text(value)}</dd>")
    return f"<h2>Environment</h2><dl>{''.join(pairs)}</dl>" if pairs else ""


def _model(name: str, model: Mapping[str, Any]) -> str:
    sections = [f'<h2 id="{_anchor(name)}">{_text(name)} {_MARKED[model["passed"]]}</h2>']
    parts = (
        ("layers", _layers),
        ("trajectory", _trajectory),
        ("faults", _faults),
        ("checks", _checks),
        ("flips", _flips),
    )
    sections += [section(model[part]) for part, section in parts if model.get(part)]
    return f"<section>{''.join(sections)}</section>"


def _layers(layers: Sequence[Mapping[str, Any]]) -> str:
    span = decades(layer.get(key) for layer in layers for key in _LAYER_KEYS.values())
    known = [q for q in _QUANTITIES if any(layer["quantity"] == q for layer in layers)]
    others = sorted({layer["quantity"] for layer in layers} - set(_QUANTITIES))
    charts = []
    for quantity in [*known, *others]:
        rows = [
            (layer["stage"], bool(layer["passed"]), {name: layer.get(key) for name, key in _LAYER_KEYS.items()})
            for layer in layers
            if layer["quantity"] == quantity
        ]
        charts.append(dot_chart(_QUANTITIES.get(quantity, quantity), rows, _LAYER_MARKS, span))
    head = (
        *("stage", "quantity", "shape", "float64", "float64 cumulative", "JAX max", "PyTorch max"),
        *("JAX rms", "PyTorch rms", "n", "bound", ""),
    )
    figures = ("float64_error", "float64_cumulative_error", "float32_jax_max", "float32_torch_max")
    figures += ("float32_jax_rms", "float32_torch_rms")
    rows = []
    for layer in layers:
        shape = "×".join(str(n) for n in layer["shape"])
        cells = [layer["stage"], layer["quantity"], shape, *(figure_text(layer.get(key)) for key in figures)]
        cells += [
            layer.get("contraction_length", "–"),
            figure_text(layer.get("bound")),
            Markup(_MARKED[layer["passed"]]),
        ]
        rows.append((bool(layer["passed"]), cells))
    return (
        "<h3>Layer by layer</h3>"
        "<p>Each layer is fed the reference's own input, so that no error hides in the next one; ReLU masks and "
        "pooling choices are those of the float64 truth. The bound grows with the square root of n, the number of "
        "products summed into one value.</p>"
        f'{legend(_LAYER_MARKS)}<div class="charts">{"".join(charts)}</div>'
        f"<details><summary>All figures ({len(rows)} rows)</summary>{_table(head, rows, set(range(3, 11)))}</details>"
    )


def _trajectory(trajectory: Mapping[str, Any]) -> str:
    if not trajectory["steps"]:
        return ""
    lines = [(Series("a control", "control", "line"), values) for values in trajectory["controls"]]
    keys = []
    if lines:
        keys.append(
            Series("controls, float32: one framework, started one unit in the last place apart", "control", "line")
        )
    for key, label, style in (("float32_difference", "float32", "jax"), ("float64_difference", "float64", "float64")):
        if trajectory.get(key):
            series = Series(f"{label}: JAX against PyTorch", style, "line")
            lines.append((series, trajectory[key]))
            keys.append(series)
    verdict = ""
    if trajectory.get("ratio") is not None:
        verdict = (
            f"In float32 the frameworks are {trajectory['ratio']:.2f}× as far apart as the farthest control (median "
            f"over the steps); at most {trajectory['limit']:g}× passes."
        )
    return (
        f"<h3>Training, step by step {_MARKED[trajectory['passed']]}</h3>"
        "<p>The largest difference of any parameter after each step, relative to its array's scale: same start, "
        f"batches and dropout masks. {_text(verdict)}</p>{legend(keys)}"
        f'<div class="wide">{line_chart("Difference along the training steps", trajectory["steps"], lines)}</div>'
    )


def _faults(faults: Mapping[str, Any]) -> str:
    ordered = sorted(faults["table"], key=lambda fault: (fault["caught"], fault["located"]))
    rows = []
    for fault in ordered:
        if not fault["caught"]:
            mark = '<span class="fail">✗ not caught</span>'
        elif not fault["located"]:
            mark = '<span class="fail">caught, elsewhere</span>'
        else:
            mark = '<span class="pass">✓ caught</span>'
        stages = (fault["expected_stage"], fault["found_stage"] or "–")
        cells = [Markup(mark), fault["name"], fault["trap"], fault["side"], *stages, fault["diagnosis"] or "–"]
        rows.append((fault["caught"] and fault["located"], cells))
    harmless = "".join(
        f"<dt>{_text(item['name'])}</dt><dd>{_text(item['reason'])}</dd>"
        for item in faults.get("changes_nothing") or []
    )
    return (
        f"<h3>Planted faults: {faults['caught']} of {faults['planted']} caught, {faults['located']} located</h3>"
        "<p>A check that cannot fail proves nothing: each fault was planted in a copy of one side. "
        f"False alarms in {faults['right_programs']} runs of right programs: {faults['false_alarms']}.</p>"
        + _table(("", "fault", "trap", "in", "planted at", "found at", "diagnosis"), rows)
        + (f"<h3>Changes that change nothing</h3><dl>{harmless}</dl>" if harmless else "")
    )


def _checks(checks: Sequence[Mapping[str, Any]]) -> str:
    parts = ["<h3>Checks by level</h3>"]
    for level in dict.fromkeys(check["level"] for check in checks):
        own = [check for check in checks if check["level"] == level]
        judged = [check["passed"] for check in own if check["judged"]]
        rows = []
        for check in sorted(own, key=lambda check: check["passed"] or not check["judged"]):
            mark = Markup(_MARKED[check["passed"]] if check["judged"] else '<span class="soft">reported</span>')
            figures = (figure_text(check["error"]), figure_text(check["limit"]))
            cells = [mark, check["name"], check["dtype"] or "–", *figures, check["note"]]
            rows.append((check["passed"] or not check["judged"], cells))
        opened = "" if all(judged) else ' open=""'
        parts.append(
            f"<details{opened}><summary>{_text(level)}: {sum(judged)} of {len(judged)} judged checks hold"
            f"{f', {len(own) - len(judged)} reported' if len(own) > len(judged) else ''}</summary>"
            f"{_table(('', 'check', 'dtype', 'error', 'limit', 'note'), rows, {3, 4})}</details>"
        )
    return "".join(parts)


def _flips(flips: Sequence[Mapping[str, Any]]) -> str:
    rows = [(True, [flip["stage"], flip["side"], f"{flip['count']:,}", f"{flip['of']:,}"]) for flip in flips]
    return (
        "<h3>Flips</h3><p>Where float32 rounding turned a ReLU or a pooling choice the other way than in float64: "
        "near-ties, on either side. One of them changes gradients by far more than rounding does.</p>"
        + _table(("stage", "side", "flipped", "of"), rows, {2, 3})
    )


def _table(
    head: Sequence[str], rows: Iterable[tuple[bool, Sequence[Any]]], numeric: set[int] | frozenset[int] = frozenset()
) -> str:
    """A table in its own scroll box; rows that are not good are marked."""

    def cell(tag: str, index: int, value: Any) -> str:
        style = ' class="number"' if index in numeric else ""
        return f"<{tag}{style}>{_text(value)}</{tag}>"

    def row(tag: str, good: bool, cells: Sequence[Any]) -> str:
        style = "" if good else ' class="bad"'
        return f"<tr{style}>{''.join(cell(tag, i, value) for i, value in enumerate(cells))}</tr>"

    top, lines = row("th", True, head), [row("td", good, cells) for good, cells in rows]
    return f'<div class="scroll"><table><thead>{top}</thead><tbody>{"".join(lines)}</tbody></table></div>'
