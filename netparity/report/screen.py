"""The findings as ``report.json`` and as a table for the screen."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

from netparity import bounds
from netparity.report import html
from netparity.results import Check, Result, StageResult

_SHOWN = 5  # failures of a level on the screen; all of them are in the report


def full_float32() -> None:
    """Keeps PyTorch from rounding float32 to TF32 on a GPU; JAX's networks ask for the highest precision themselves."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def environment(arguments: Mapping[str, Any], seconds: float, torch_device: str = "cpu") -> dict[str, Any]:
    """Versions, devices and precision modes of both sides."""
    import jax.numpy as jnp
    import torch

    from jaxalex.system import environment as ours

    versions = {**ours.versions(), "torch": torch.__version__}
    versions["torchvision"] = importlib.metadata.version("torchvision")
    tf32 = f"allow_tf32: matmul {torch.backends.cuda.matmul.allow_tf32}, cudnn {torch.backends.cudnn.allow_tf32}"
    return {
        "versions": versions,
        "devices": {
            "jax": ours.describe_device(next(iter(jnp.zeros(()).devices()))),
            "torch": _torch_device(torch_device),
        },
        "cpu": ours.cpu_name(),
        "cores": ours.cpu_count(),
        "precision": {"jax": "lax.Precision.HIGHEST", "torch": f"float32; {tf32}"},
        "arguments": dict(arguments),
        "seconds": round(seconds, 1),
    }


def _torch_device(name: str) -> str:
    import torch

    return name if name == "cpu" else f"gpu: {torch.cuda.get_device_name(name)}"


def to_dict(results: Mapping[str, Result], env: dict[str, Any]) -> dict[str, Any]:
    """The object of ``report.json``."""
    models = {name: _model(result) for name, result in results.items()}
    return {"passed": all(m["passed"] for m in models.values()), "environment": env, "models": models}


def text(whole: Mapping[str, Any]) -> str:
    """What ``report.json`` holds; a number that is not finite is refused, so it is written as null."""
    return json.dumps(_finite(whole), indent=1, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write(whole: Mapping[str, Any], out: pathlib.Path) -> str:
    """Writes ``report.json`` and ``report.html`` into a folder, made if need be; gives the former's text."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.json").write_text(text(whole))
    html.write_html(json.loads(text(whole)), out / "report.html")
    return text(whole)


def _model(result: Result) -> dict[str, Any]:
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
        "faults": result.faults or None,
    }


def _layer(row: StageResult) -> dict[str, Any]:
    return {**dataclasses.asdict(row), "shape": list(row.shape), "passed": row.passed}


def layer_table(layers: list[StageResult]) -> str:
    """One line a stage and quantity: float64 error, each side's float32 error, and the bound."""
    head = f"{'stage':<7}{'quantity':<12}{'n':>7}  {'float64':>8}  {'f32 JAX':>8}  {'f32 torch':>9}  {'bound':>8}"
    head += "  rms ratio"
    lines = [head, "-" * len(head)]
    for row in layers:
        ratio = "-" if row.rms_ratio is None else f"{row.rms_ratio:.2f}"
        errors = [_number(x) for x in (row.float64_error, row.float32_jax_max, row.float32_torch_max, row.bound)]
        mark = "" if row.passed else "   FAILED"
        lines.append(
            f"{row.stage:<7}{row.quantity:<12}{row.contraction_length:>7}  {errors[0]:>8}  {errors[1]:>8}  "
            f"{errors[2]:>9}  {errors[3]:>8}  {ratio:>9}{mark}"
        )
    return "\n".join(lines)


def summary(name: str, result: Result) -> str:
    """What one network's comparison found, for the screen."""
    figures = _model(result)
    lines = [layer_table(result.layers), ""]
    if result.images:
        lines.append(f"images: {result.images}; width {result.width:g}, batch {result.batch_size}")
    for level in dict.fromkeys(one.level for one in result.checks):
        lines += _level(level, [one for one in result.checks if one.level == level and one.judged])
    if result.flips:
        counts = {side: sum(one.count for one in result.flips if one.side == side) for side in ("jax", "torch")}
        of = sum(one.of for one in result.flips) // 2
        lines.append(f"choices that float32 flips: JAX {counts['jax']}, PyTorch {counts['torch']} of {of}")
    if result.faults:
        f = result.faults
        lines.append(
            f"planted faults: caught {f['caught']}, located {f['located']} of {f['planted']}; "
            f"{f['false_alarms']} false alarms in {f['right_programs']} right programs"
        )
    if result.diagnosis:
        lines.append(result.diagnosis)
    lines += [
        "",
        f"{name}: {'PASSED' if result.passed else 'FAILED'}   float64 {_number(figures['float64_max_relative_error'])}"
        f"   float32 JAX/PyTorch {_number(figures['float32_error_ratio_jax_over_torch'], 'g')}"
        f"   trajectory float64 {_number(figures['trajectory_float64_max_relative_error'])}"
        f"   chaos ratio {_number(result.trajectory.ratio if result.trajectory else None, 'g')}",
    ]
    return "\n".join(lines)


def _level(level: str, checks: list[Check]) -> list[str]:
    """How many checks of a level passed, the worst errors, and every one that failed."""
    failed = [one for one in checks if not one.passed]
    worst = []
    for dtype in ("float64", "float32"):
        errors = [one.error for one in checks if one.dtype == dtype and one.error is not None]
        worst += [f"{dtype} {_number(max(errors))}"] if errors else []
    line = f"{level:<13} {len(checks) - len(failed)} of {len(checks)} passed" + (
        f"; worst {', '.join(worst)}" if worst else ""
    )
    lines = [line]
    for one in failed[:_SHOWN]:
        limit = f"{_number(one.error)}, limit {_number(one.limit)}" if one.error is not None else ""
        lines.append(f"    FAILED {one.stage}: {one.name} ({one.dtype}) {limit} {one.note}".rstrip())
    if len(failed) > _SHOWN:
        lines.append(f"    … and {len(failed) - _SHOWN} more")
    return lines


def _number(value: float | None, kind: str = "e") -> str:
    return "-" if value is None else f"{value:.1e}" if kind == "e" else f"{value:.3g}"
