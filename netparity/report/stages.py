"""The parts of the page about the stages as a whole: what differs first, their graph, conventions, histograms.

Each takes what ``report.json`` holds of one network and returns markup.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from netparity.report.charts import figure_text
from netparity.report.graph_chart import VERDICTS, edge_keys, graph_chart, neighbourhood, style
from netparity.report.histograms import histogram, is_exact
from netparity.report.markup import place, region, table, text
from netparity.results import VANISHES

_SMALL = 12  # stages: such a graph is seen at once
_MANY = 24  # histograms on the page; more are folded away
_NEAREST = 10  # histograms that are shown of many


def diagnosis(model: Mapping[str, Any]) -> str:
    """The box that says what differs first, why, and what it is computed from; nothing where nothing differs."""
    if not model.get("first_divergence"):
        return ""
    stage, what = model["first_divergence"]
    parts = [f'<p class="lead"><b>{text(stage)}</b> ({text(what)}) is the first that differs.</p>']
    parts += _explained(model.get("diagnosis") or "")
    if model.get("advice"):
        parts.append(f"<p>To mend it: {_code(text(model['advice']))}</p>")
    parents, verdicts = model.get("parents") or {}, model.get("verdicts") or {}
    if parents.get(stage):
        parts.append(f"<p>It is computed from {_listed(parents[stage], verdicts)}.</p>")
    others = model.get("torch_parents") or {}
    if stage in others:
        theirs = _listed(others[stage], verdicts) if others[stage] else "nothing that is compared"
        parts.append(f"<p>In PyTorch, as far as gradients go, it is computed from {theirs}.</p>")
    if stage in parents and len(parents) > _SMALL:
        kept = neighbourhood(parents, stage, others.get(stage, ()))
        around = graph_chart(kept, others, verdicts, stage, f"The graph around {stage}")
        parts.append(region(around, f"The graph around {stage}", "graph-box"))
    return f'<div class="diagnosis">{"".join(parts)}</div>'


def _code(said: str) -> str:
    """Escaped text with what stands between backticks as code."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", said)


def _explained(said: str) -> list[str]:
    """The sentences of a diagnosis, without the name of the stage, what explains the difference before all others."""
    first, *more = said.splitlines() or [""]
    cause = first.partition("); ")[2] if first.startswith("first diverging stage: ") else first
    known = cause.removeprefix(VANISHES)
    lines = known.replace("explains it: ", "explains it; ").split("; ") + more
    parts = [f"<p>{text(line[:1].upper() + line[1:])}.</p>" for line in lines if line.strip()]
    parts[:1] = [part.replace("<p>", '<p class="cause">') for part in parts[:1]]
    return [*parts, "<p>Changed in that alone, both sides agree.</p>"] if known != cause else parts


def _listed(names: Sequence[str], verdicts: Mapping[str, str]) -> str:
    """Stages and inputs, and what was found of them, as part of a sentence."""
    said = [
        f"<code>{text(name)}</code> ({VERDICTS[verdicts[name]][1] if name in verdicts else 'an input'})"
        for name in names
    ]
    return said[0] if len(said) == 1 else f"{', '.join(said[:-1])} and {said[-1]}"


def graph(model: Mapping[str, Any], anchor: str) -> str:
    """Who feeds whom, as a chart with a key, and the same as a table to unfold.

    Args:
      model: what ``report.json`` holds of the network.
      anchor: the name of a link to the stage that differs first.
    """
    parents, verdicts = model["parents"], model.get("verdicts") or {}
    first = (model.get("first_divergence") or [None])[0]
    counts = Counter(verdicts.values())
    keys = "".join(
        f'<span><span class="key-box {style(verdict)}">{mark}</span> {text(meaning)}: {counts[verdict]}</span>'
        for verdict, (mark, meaning) in VERDICTS.items()
        if counts[verdict]
    )
    title = f"The graph of {len(parents)} stages; the same as a table below"
    others = model.get("torch_parents") or {}
    chart = graph_chart(parents, others, verdicts, first, title, anchor)
    keys += "".join(edge_keys(parents, others))
    if first in parents:
        keys += f'<a href="#{text(anchor)}">to the first difference</a>'
    worst: dict[str, float] = {}
    for row in model.get("layers") or []:
        if row.get("float64_error") is not None:
            worst[row["stage"]] = max(worst.get(row["stage"], 0.0), row["float64_error"])
    rows = []
    for name, sources in parents.items():
        mark, meaning = VERDICTS[verdicts.get(name, "not reached")]
        cells = [f"{mark} {meaning}", name, ", ".join(sources) or "–", figure_text(worst.get(name))]
        rows.append((verdicts.get(name) != "failed", cells))
    head = ("", "stage", "computed from", "largest float64 error, fed the same")
    return (
        f"<h3>Who feeds whom: {len(parents)} stages</h3>"
        "<p>Each stage stands below all that it is computed from in the JAX network; its inputs are rounded. “Fed the "
        "same” means that both sides’ stage got the same numbers, so that no mistake shows but its own.</p>"
        f'<p class="legend">{keys}</p>{region(chart, "The graph of stages", "graph-box")}'
        f"<details><summary>As a table</summary>{table(head, rows, {3}, 'The stages')}</details>"
    )


def conventions(found: Sequence[Mapping[str, Any]]) -> str:
    """What the modules' attributes show to differ before any number is computed."""
    rows = [(True, [one["stage"], one["what"], one["jax"], one["torch"], one.get("note") or ""]) for one in found]
    return (
        "<h3>Differences that the modules’ attributes show</h3>"
        "<p>Read off the two networks’ modules, before any number is computed.</p>"
        + table(("stage", "what", "JAX", "PyTorch", "note"), rows, label="Conventions")
    )


def histograms(found: Sequence[Mapping[str, Any]]) -> str:
    """How the float32 errors of every stage's output are spread, both sides beside one another."""
    rows = [row for row in found if row.get("histogram")]
    if not rows:
        return ""
    exact = [place(row) for row in rows if is_exact(row["histogram"])]
    rows = [row for row in rows if not is_exact(row["histogram"])]
    figures = [(_headroom(row), histogram(place(row), row["histogram"])) for row in rows]
    everything = f'<div class="histograms">{"".join(figure for _, figure in figures)}</div>'
    if len(rows) > _MANY:
        nearest = sorted(figures, key=lambda figure: -figure[0])[:_NEAREST]
        everything = (
            f"<p>The {_NEAREST} outputs that come nearest to their bounds:</p>"
            f'<div class="histograms">{"".join(figure for _, figure in nearest)}</div>'
            f"<details><summary>All {len(rows)} outputs</summary>{everything}</details>"
        )
    same = f'<p class="soft">Exact on both sides: {text(", ".join(exact))}.</p>' if exact else ""
    return (
        "<h3>How float32 errs</h3>"
        "<p>Every number of a stage’s output, fed the same, against the float64 truth: JAX’s errors upwards, PyTorch’s "
        "downwards, in doubling steps from 1/256 to 256 units. The unit is that of float32’s last place at the "
        "largest true value of the output (2<sup>−23</sup> of the power of two below it). It is one for the whole "
        "output, since small sums of large products cannot err by less. Correct rounding stays left of the dashed line "
        "at ½. Bars are shares of all numbers, on one scale for both sides; exact numbers have no bar. Two right "
        "programs look alike; one that computes more coarsely lies farther to the right.</p>"
        f"{everything}{same}"
    )


def _headroom(row: Mapping[str, Any]) -> float:
    """The larger float32 error over its bound; what is not finite comes first."""
    errors = [row.get("float32_jax_max"), row.get("float32_torch_max")]
    if None in errors or not row.get("bound"):
        return float("inf")
    return max(float(error) for error in errors if error is not None) / float(row["bound"])
