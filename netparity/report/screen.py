"""What a comparison found, as a table for the screen."""

from __future__ import annotations

from netparity import bounds
from netparity.report import document
from netparity.report.graph_chart import VERDICTS
from netparity.results import Check, Convention, Result, StageResult

# On the screen; all of it is in the report.
_SHOWN = 3  # failures of a level, stages of a difference
_WORST = 10  # rows of many
_ROWS = 40  # rows that are not many


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
    """What one network's comparison found, for the screen: what differs first and why, before any number."""
    figures = document.model(result)
    lines = [*_diagnosis(result), *_conventions(result.conventions), *_layers(result), ""]
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
    lines += [
        "",
        f"{name}: {'PASSED' if result.passed else 'FAILED'}   float64 {_number(figures['float64_max_relative_error'])}"
        f"   float32 JAX/PyTorch {_number(figures['float32_error_ratio_jax_over_torch'], 'g')}"
        f"   trajectory float64 {_number(figures['trajectory_float64_max_relative_error'])}"
        f"   chaos ratio {_number(result.trajectory.ratio if result.trajectory else None, 'g')}",
    ]
    return "\n".join(lines)


def _diagnosis(result: Result) -> list[str]:
    """What differs first, why, and what it is computed from; nothing where nothing differs."""
    if result.first_divergence is None:
        return []
    stage, what = result.first_divergence
    lines = [result.diagnosis or f"first diverging stage: {stage} ({what})"]
    lines += [f"to mend it: {result.advice}"] if result.advice else []
    if result.parents.get(stage):
        verdicts = result.verdicts
        known = [
            f"{one} ({VERDICTS[verdicts[one]][1] if one in verdicts else 'an input'})" for one in result.parents[stage]
        ]
        lines.append(f"computed from: {', '.join(known)}")
    if stage in result.torch_parents:
        theirs = ", ".join(result.torch_parents[stage]) or "nothing that is compared"
        lines.append(f"in PyTorch, as far as gradients go, computed from: {theirs}")
    return [*lines, ""]


def _conventions(found: list[Convention]) -> list[str]:
    """A line for each difference of the modules' attributes, with all the stages that show it."""
    by_difference: dict[tuple[str, str, str, str], list[str]] = {}
    for one in found:
        by_difference.setdefault((one.what, one.jax, one.torch, one.note), []).append(one.stage)
    lines = []
    for (what, jax, torch, note), stages in by_difference.items():
        more = f" and {len(stages) - _SHOWN} more" if len(stages) > _SHOWN else ""
        said = f" ({note})" if note else ""
        lines.append(f"conventions: {', '.join(stages[:_SHOWN])}{more} {what}: JAX {jax}, PyTorch {torch}{said}")
    return [*lines, ""] if lines else []


def _layers(result: Result) -> list[str]:
    """All rows of a network that passes, or of many those nearest to their limits; of one that fails, what fails."""
    layers = result.layers
    if not layers:
        return []
    if result.passed:
        shown = layers if len(layers) <= _ROWS else sorted(layers, key=_headroom)[:_WORST]
        more = [f"… and {len(layers) - _WORST} more, each farther from its limits"] if len(layers) > _ROWS else []
        return [layer_table(shown), *more]
    failed = [row for row in layers if not row.passed]
    table = [layer_table(failed[:_WORST])] if failed else []
    more = [f"… and {len(failed) - _WORST} more that fail"] if len(failed) > _WORST else []
    return [*table, *more, f"isolated      {len(layers) - len(failed)} of {len(layers)} passed"]


def _headroom(row: StageResult) -> float:
    """Sorts what comes nearest to a limit first."""
    shares = [(row.float64_error or 0.0) / bounds.FLOAT64_LIMIT, ((row.rms_ratio or 1) - 1) / (bounds.RMS_RATIO - 1)]
    shares += [(error or 0.0) / row.bound for error in (row.float32_jax_max, row.float32_torch_max)]
    return -max(shares)


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
