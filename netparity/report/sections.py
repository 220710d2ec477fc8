"""The parts of the page about one network: layers, training, planted faults, checks and flips.

Each takes what stands under its name in ``report.json`` and returns markup.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from netparity import bounds
from netparity.report.charts import Series, decades, dot_chart, figure_text, legend, line_chart
from netparity.report.markup import MARKED, Markup, place, region, table, text

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
_MANY = 100  # rows: more are folded away, but for those nearest to their limits
_NEAREST = 16
_FEW = 20  # failed checks: fewer are unfolded
_FLOAT32 = (_LAYER_KEYS[_JAX.name], _LAYER_KEYS[_TORCH.name])
_QUANTITIES = ("Output", "Gradient of the input", "Gradient of the kernel", "Gradient of the bias")
_OTHER = "Gradients of other parameters"


def layers(found: Sequence[Mapping[str, Any]]) -> str:
    """Every stage in isolation: a chart for each quantity, and all figures in a table to unfold."""
    span = decades(row.get(key) for row in found for key in _LAYER_KEYS.values())
    charts = []
    for quantity in (*_QUANTITIES, _OTHER):
        own = [row for row in found if _quantity(row) == quantity]
        if not own:
            continue
        chart = _chart(quantity, [(_label(row, quantity), row) for row in own], span)
        good = sum(bool(row["passed"]) for row in own)
        opened = ' open=""' if len(found) <= _MANY else ""
        summary = f"<summary>{text(quantity)}: {good} of {len(own)} within their limits</summary>"
        charts.append(f"<details{opened}>{summary}{chart}</details>")
    nearest = ""
    if len(found) > _MANY:
        rows = sorted(found, key=_nearness)[:_NEAREST]
        title = "Nearest to their limits, or beyond"
        chart = _chart(title, [(f"{place(row)}, {_title(_kind(row)).lower()}", row) for row in rows], span)
        nearest = f"<p>{title}:</p>{chart}"
    return (
        "<h3>Layer by layer</h3>"
        "<p>Each layer is fed the reference's own input, so that no error hides in the next one; ReLU masks and "
        "pooling choices are those of the float64 truth. The bound grows with the square root of n, the number of "
        "products summed into one value; of other layers it is what simulated rounding explains, where that is "
        "more.</p>"
        f'{legend(_LAYER_MARKS)}{nearest}<div class="charts">{"".join(charts)}</div>'
        f"<details><summary>All figures ({len(found)} rows)</summary>{_figures(found)}</details>"
    )


def _chart(title: str, rows: Sequence[tuple[str, Mapping[str, Any]]], span: tuple[int, int]) -> str:
    marks = [
        (label, bool(row["passed"]), {name: row.get(key) for name, key in _LAYER_KEYS.items()}) for label, row in rows
    ]
    return region(dot_chart(title, marks, _LAYER_MARKS, span), title, "wide")


def _nearness(row: Mapping[str, Any]) -> tuple[bool, float]:
    """Sorts what fails first, then what comes nearest to its limit; what is not finite stands before all others."""
    limits = {"float64_error": bounds.FLOAT64_LIMIT, **dict.fromkeys(_FLOAT32, row.get("bound"))}
    shares = [row[key] / limit for key, limit in limits.items() if row.get(key) is not None and limit]
    nearest = max(shares, default=math.inf)
    return bool(row["passed"]), -nearest


def _kind(row: Mapping[str, Any]) -> str:
    """The quantity, whatever it is taken of: ``vjp_input`` for ``vjp_input[conv1]``."""
    return str(row["quantity"]).partition("[")[0]


def _title(kind: str) -> str:
    return f"Gradient of the {kind[4:]}" if kind.startswith("vjp_") else kind.capitalize()


def _quantity(row: Mapping[str, Any]) -> str:
    """The chart that a row belongs to."""
    title = _title(_kind(row))
    return title if title in _QUANTITIES else _OTHER


def _label(row: Mapping[str, Any], quantity: str) -> str:
    return f"{place(row)}: {_kind(row)[4:]}" if quantity == _OTHER else place(row)


def _figures(found: Sequence[Mapping[str, Any]]) -> str:
    head = (
        *("stage", "quantity", "shape", "float64", "float64 cumulative", "JAX max", "PyTorch max"),
        *("JAX rms", "PyTorch rms", "n", "bound", ""),
    )
    errors = (
        *("float64_error", "float64_cumulative_error", "float32_jax_max", "float32_torch_max"),
        *("float32_jax_rms", "float32_torch_rms"),
    )
    rows = []
    for row in found:
        shape = "×".join(str(n) for n in row["shape"])
        cells = [place(row), _kind(row), shape, *(figure_text(row.get(key)) for key in errors)]
        cells += [row.get("contraction_length", "–"), figure_text(row.get("bound")), MARKED[row["passed"]]]
        rows.append((bool(row["passed"]), cells))
    return table(head, rows, set(range(3, 11)), "All figures")


def trajectory(found: Mapping[str, Any]) -> str:
    """How far both programs part while they train, beside the controls; nothing where no step was taken."""
    if not found["steps"]:
        return ""
    lines = [(Series("a control", "control", "line"), values) for values in found["controls"]]
    keys = []
    if lines:
        keys.append(
            Series("controls, float32: one framework, started one unit in the last place apart", "control", "line")
        )
    for key, label, style in (("float32_difference", "float32", "jax"), ("float64_difference", "float64", "float64")):
        if found.get(key):
            series = Series(f"{label}: JAX against PyTorch", style, "line")
            lines.append((series, found[key]))
            keys.append(series)
    verdict = ""
    if found.get("ratio") is not None:
        verdict = (
            f"In float32 the frameworks are {found['ratio']:.2f}× as far apart as the farthest control (median "
            f"over the steps); at most {found['limit']:g}× passes."
        )
    return (
        f"<h3>Training, step by step {MARKED[found['passed']]}</h3>"
        "<p>The largest difference of any parameter after each step, relative to its array's scale: same start, "
        f"batches and dropout masks. {text(verdict)}</p>{legend(keys)}"
        + region(line_chart("Difference along the training steps", found["steps"], lines), "Training", "wide")
    )


def faults(found: Mapping[str, Any]) -> str:
    """Every planted fault, those that slipped through first, and the changes that change nothing."""
    ordered = sorted(found["table"], key=lambda fault: (fault["caught"], fault["located"]))
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
        f"<dt>{text(item['name'])}</dt><dd>{text(item['reason'])}</dd>" for item in found.get("changes_nothing") or []
    )
    return (
        f"<h3>Planted faults: {found['caught']} of {found['planted']} caught, {found['located']} located</h3>"
        "<p>A check that cannot fail proves nothing: each fault was planted in a copy of one side. "
        f"False alarms in {found['right_programs']} runs of right programs: {found['false_alarms']}.</p>"
        + table(("", "fault", "trap", "in", "planted at", "found at", "diagnosis"), rows, label="Planted faults")
        + (f"<h3>Changes that change nothing</h3><dl>{harmless}</dl>" if harmless else "")
    )


def checks(found: Sequence[Mapping[str, Any]]) -> str:
    """A table of checks for each level to unfold; open where a few failed."""
    parts = ["<h3>Checks by level</h3>"]
    for level in dict.fromkeys(check["level"] for check in found):
        own = [check for check in found if check["level"] == level]
        judged = [check["passed"] for check in own if check["judged"]]
        rows = []
        for check in sorted(own, key=lambda check: check["passed"] or not check["judged"]):
            mark = MARKED[check["passed"]] if check["judged"] else Markup('<span class="soft">reported</span>')
            figures = (figure_text(check["error"]), figure_text(check["limit"]))
            cells = [mark, check["name"], check["dtype"] or "–", *figures, check["note"]]
            rows.append((check["passed"] or not check["judged"], cells))
        opened = ' open=""' if 0 < judged.count(False) <= _FEW else ""
        fails = "" if all(judged) else f"{MARKED[False]}, "
        parts.append(
            f"<details{opened}><summary>{text(level)}: {fails}{sum(judged)} of {len(judged)} judged checks hold"
            f"{f', {len(own) - len(judged)} reported' if len(own) > len(judged) else ''}</summary>"
            f"{table(('', 'check', 'dtype', 'error', 'limit', 'note'), rows, {3, 4}, f'Checks: {level}')}</details>"
        )
    return "".join(parts)


def flips(found: Sequence[Mapping[str, Any]]) -> str:
    """How many choices float32 flips, by stage and side."""
    rows = [(True, [flip["stage"], flip["side"], f"{flip['count']:,}", f"{flip['of']:,}"]) for flip in found]
    return (
        "<h3>Flips</h3><p>Where float32 rounding turned a ReLU or a pooling choice the other way than in float64: "
        "near-ties, on either side. One of them changes gradients by far more than rounding does.</p>"
        + table(("stage", "side", "flipped", "of"), rows, {2, 3}, "Flips")
    )
