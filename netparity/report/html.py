"""The report as one self-contained page: readable offline and on paper, in light and dark."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from netparity.report import sections, stages
from netparity.report.charts import figure_text
from netparity.report.markup import MARKED, text

# A page that may load nothing at all.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_SHOWN = 8  # failures in the verdict; all are in the tables


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
    if len(models) > 1:
        body += [
            f"<section><h3>{text(n)} {MARKED[m['passed']]}</h3>{_headline(m)}</section>" for n, m in models.items()
        ]
    body += [_model(name, model, len(models) == 1) for name, model in models.items()]
    body.append(_environment(report.get("environment", {})))
    page = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"/>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}"/>'
        f"<title>Parity of JAX and PyTorch</title><style>\n{style}</style></head>\n<body>\n"
        + f"{_header(models)}\n<main>\n"
        + "\n".join(body)
        + "\n</main></body></html>\n"
    )
    path.write_text(page, encoding="utf-8")


def _anchor(name: str) -> str:
    return "model-" + "-".join(name.split())


def _header(names: Iterable[str]) -> str:
    links = [f'<a href="#{text(_anchor(name))}">{text(name)}</a>' for name in names]
    nav = f'<nav aria-label="Networks">{"".join(links)}</nav>' if len(links) > 1 else ""
    return (
        "<header><h1>Parity of JAX and PyTorch</h1>"
        '<p class="soft">Errors are relative to the scale of what is compared: largest errors to its largest value, '
        "root-mean-square errors to its root mean square. float64 holds one framework against the other; float32 "
        f"holds each against the float64 truth.</p>{nav}</header>"
    )


def _verdict(report: Mapping[str, Any]) -> str:
    models = report["models"]
    if report["passed"]:
        state, names = "holds", text(", ".join(models))
        verdict = f"<strong>Parity holds</strong>The JAX and the PyTorch program compute the same function: {names}."
    else:
        state = "fails"
        verdict = "<strong>Parity fails</strong>" + "".join(_reasons(name, model) for name, model in models.items())
    return f'<section class="verdict {state}">{verdict}</section>'


def _reasons(name: str, model: Mapping[str, Any]) -> str:
    """Why a model fails: the diagnosis, and what fails, the first of many; nothing if it passes."""
    if model["passed"]:
        return ""
    lines = _failures(model) or ["see below"]
    listed = "".join(f"<li>{text(line)}</li>" for line in lines[:_SHOWN])
    more = f"<p>… and {len(lines) - _SHOWN} more, all marked below.</p>" if len(lines) > _SHOWN else ""
    return f"<h2>{text(name)}</h2>{stages.diagnosis(model)}<ul>{listed}</ul>{more}"


def _failures(model: Mapping[str, Any]) -> list[str]:
    """Why a model fails, a line each, the worst kind first."""
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


def _headline(model: Mapping[str, Any]) -> str:
    trajectory, faults = model.get("trajectory"), model.get("faults")
    judged = [r["passed"] for r in model.get("layers") or []]
    judged += [c["passed"] for c in model.get("checks") or [] if c["judged"]]
    cards = [
        (figure_text(model.get("float64_max_relative_error")), "largest float64 error of any layer or gradient"),
        (_ratio(model.get("float32_error_ratio_jax_over_torch")), "float32 error, JAX over PyTorch, worst layer"),
        (f"{sum(judged):,} of {len(judged):,}", "layers and checks within their limits"),
    ]
    if model.get("trajectory_float64_max_relative_error") is not None:
        note = f"largest float64 error along {len(trajectory['steps'])} training steps" if trajectory else ""
        note = note or "largest float64 error along the trajectory"
        cards.append((figure_text(model["trajectory_float64_max_relative_error"]), note))
    if faults:
        score = f"{faults['caught']} of {faults['planted']}"
        alarms = f"false alarms on {faults['right_programs']} right programs: {faults['false_alarms']}"
        cards.append((score, f"planted faults caught, {faults['located']} located; {alarms}"))
    boxes = "".join(f'<div class="card"><b>{text(figure)}</b><span>{text(n)}</span></div>' for figure, n in cards)
    return f'{_shape(model)}<div class="cards">{boxes}</div>'


def _shape(model: Mapping[str, Any]) -> str:
    parts = []
    if model.get("image_shape"):
        parts.append("images " + "×".join(str(n) for n in model["image_shape"]))
    for key, label, usual in (
        ("batch_size", "batch size", None),
        ("width", "width", 1),
        ("steps", "training steps", 0),
    ):
        if model.get(key) not in (None, usual):
            parts.append(f"{label} {model[key]:g}")
    return f'<p class="soft">{text(", ".join(parts))}</p>' if parts else ""


def _ratio(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}×" if value < 100 else f"{value:,.0f}×"


def _environment(environment: Mapping[str, Any]) -> str:
    pairs = []
    for key, value in environment.items():
        label = {"cpu": "processor", "seconds": "time taken"}.get(key, key.replace("_", " "))
        if isinstance(value, Mapping):
            value = ", ".join(f"{k} {v}" for k, v in value.items())
        elif key == "seconds":
            value = f"{value:.0f} s"
        pairs.append(f"<dt>{text(label)}</dt><dd>{text(value)}</dd>")
    return f"<h2>Environment</h2><dl>{''.join(pairs)}</dl>" if pairs else ""


def _model(name: str, model: Mapping[str, Any], alone: bool) -> str:
    parts = (
        ("conventions", stages.conventions),
        ("layers", sections.layers),
        ("layers", stages.histograms),
        ("trajectory", sections.trajectory),
        ("faults", sections.faults),
        ("checks", sections.checks),
        ("flips", sections.flips),
    )
    shown = [_headline(model)] if alone else []
    shown += [stages.graph(model, f"{_anchor(name)}-first")] if model.get("parents") else []
    shown += [section(model[part]) for part, section in parts if model.get(part)]
    return (
        f'<section><h2 id="{text(_anchor(name))}">{text(name)} {MARKED[model["passed"]]}</h2>{"".join(shown)}</section>'
    )
