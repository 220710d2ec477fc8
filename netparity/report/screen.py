"""What a comparison found, as a table for the screen."""

from __future__ import annotations

from netparity.report import document
from netparity.results import Check, Result, StageResult

_SHOWN = 5  # failures of a level on the screen; all of them are in the report


def layer_table(layers: list[StageResult]) -> str:
    """One line a stage and quantity: float64 error, each side's float32 error, and the bound."""
    wide = max([6, *(len(_stage(row)) for row in layers)]) + 1
    long = max([11, *(len(row.quantity) for row in layers)]) + 1
    head = (
        f"{'stage':<{wide}}{'quantity':<{long}}{'n':>7}  {'float64':>8}  {'f32 JAX':>8}  {'f32 torch':>9}  {'bound':>8}"
    )
    head += "  rms ratio"
    lines = [head, "-" * len(head)]
    for row in layers:
        ratio = "-" if row.rms_ratio is None else f"{row.rms_ratio:.2f}"
        errors = [_number(x) for x in (row.float64_error, row.float32_jax_max, row.float32_torch_max, row.bound)]
        mark = "" if row.passed else "   FAILED"
        lines.append(
            f"{_stage(row):<{wide}}{row.quantity:<{long}}{row.contraction_length:>7}  {errors[0]:>8}  {errors[1]:>8}  "
            f"{errors[2]:>9}  {errors[3]:>8}  {ratio:>9}{mark}"
        )
    return "\n".join(lines)


def _stage(row: StageResult) -> str:
    return row.stage if row.mode == "training" else f"{row.stage} ({row.mode})"


def summary(name: str, result: Result) -> str:
    """What one network's comparison found, for the screen."""
    figures = document.model(result)
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
