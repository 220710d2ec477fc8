"""``report.json``: what a comparison found, as one object."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

from netparity import bounds, measure
from netparity.report import html
from netparity.results import Result, StageResult


def to_dict(results: Mapping[str, Result], env: dict[str, Any]) -> dict[str, Any]:
    """The object of ``report.json``.

    Args:
      results: by the network's name.
      env: what `netparity.report.environment.environment` returns, and more.
    """
    models = {name: model(result) for name, result in results.items()}
    return {"passed": all(m["passed"] for m in models.values()), "environment": env, "models": models}


def text(whole: Mapping[str, Any]) -> str:
    """The text of ``report.json``. JSON has no infinity and no NaN: such a number becomes null."""
    return json.dumps(_finite(whole), indent=1, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write(whole: Mapping[str, Any], out: pathlib.Path) -> str:
    """Writes ``report.json`` and ``report.html`` into a folder, which is made if need be; returns the JSON text."""
    out.mkdir(parents=True, exist_ok=True)
    # Anew: a link of that name in somebody's folder must not lead elsewhere.
    for name in ("report.json", "report.html"):
        (out / name).unlink(missing_ok=True)
    written = text(whole)
    with (out / "report.json").open("x", encoding="utf-8") as file:
        file.write(written)
    html.write_html(json.loads(written), out / "report.html")
    return written


def model(result: Result) -> dict[str, Any]:
    """What ``report.json`` holds of one network."""
    track = result.trajectory
    float64 = [row.float64_error for row in result.layers if row.float64_error is not None]
    float64 += [
        one.error for one in result.checks
        if one.dtype == "float64" and one.level != "training" and one.judged and one.error is not None
    ]  # fmt: skip
    ratios = [row.rms_ratio for row in result.layers if row.rms_ratio is not None]
    return {
        "passed": result.passed,
        "width": result.width,
        "batch_size": result.batch_size,
        "image_shape": list(result.image_shape),
        "steps": result.steps,
        "images": result.images,
        "float64_max_relative_error": max(float64, default=None),
        "float32_error_ratio_jax_over_torch": max(ratios, default=None),
        "trajectory_float64_max_relative_error": max(track.float64_difference, default=None) if track else None,
        "layers": [_layer(row) for row in result.layers],
        "checks": [dataclasses.asdict(one) for one in result.checks],
        "flips": [dataclasses.asdict(one) for one in result.flips],
        "trajectory": {
            "steps": list(range(1, result.steps + 1)),
            "float64_difference": track.float64_difference,
            "float32_difference": track.float32_difference,
            "controls": track.controls,
            "ratio": track.ratio,
            "limit": bounds.CHAOS_LIMIT,
            "passed": track.passed,
        }
        if track
        else None,
        "diagnosis": result.diagnosis,
        "advice": result.advice,
        "first_divergence": list(result.first_divergence) if result.first_divergence else None,
        "parents": {stage: list(names) for stage, names in result.parents.items()},
        "torch_parents": {stage: list(names) for stage, names in result.torch_parents.items()},
        "verdicts": result.verdicts,
        "conventions": [dataclasses.asdict(one) for one in result.conventions],
        "ulp_edges": list(measure.ULP_EDGES),
        "minimum_tolerance": result.minimum_tolerance or None,
        "faults": result.faults or None,
    }


def _layer(row: StageResult) -> dict[str, Any]:
    return {**dataclasses.asdict(row), "shape": list(row.shape), "passed": row.passed}
