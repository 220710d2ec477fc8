"""Curves as PNG."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

_COLOURS = {"jax": "#1f6fb4", "torch": "#d9662b"}
_NAMES = {"jax": "JAX", "torch": "PyTorch"}


def growth(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Images/s and peak memory against the batch size, of the best row of each framework."""
    best = [row for row in rows if row["best"]]
    groups = list(dict.fromkeys((row["model"], row["mode"], row["precision"]) for row in best))
    figure = _figure(10, 3.2 * max(1, len(groups)))
    panels = figure.subplots(max(1, len(groups)), 2, squeeze=False)
    for (model, mode, precision), (speed, memory) in zip(groups, panels, strict=False):
        for framework in ("jax", "torch"):
            own = [
                row
                for row in best
                if (row["model"], row["mode"], row["precision"], row["framework"])
                == (model, mode, precision, framework)
            ]
            own.sort(key=lambda row: row["batch_size"])
            batches = [row["batch_size"] for row in own]
            _line(speed, batches, [row["images_per_second"] for row in own], framework)
            _line(memory, batches, [(row["peak_memory_bytes"] or 0) / 1e6 for row in own], framework)
        for axes, label in ((speed, "images/s"), (memory, "peak memory, MB")):
            axes.set(title=f"{model}, {mode}, {precision}", xlabel="batch size", ylabel=label)
            axes.set_xscale("log", base=2)
            axes.set_ylim(bottom=0)
    return _png(figure)


def epochs(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Seconds of an epoch against the size of the training set."""
    figure = _figure(6, 4)
    axes = figure.subplots()
    for framework in ("jax", "torch"):
        own = sorted((row for row in rows if row["framework"] == framework), key=lambda row: row["train_size"])
        _line(axes, [row["train_size"] for row in own], [row["epoch_seconds"] for row in own], framework)
    axes.set(xlabel="training images", ylabel="seconds an epoch", title="A training epoch")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    return _png(figure)


def _line(axes: Any, x: Sequence[float], y: Sequence[float], framework: str) -> None:
    axes.plot(x, y, color=_COLOURS[framework], marker="o", markersize=4, label=_NAMES[framework])
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)


def _figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
