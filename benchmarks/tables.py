"""Results as tables: lists of rows of text, for the screen, Markdown and HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Table = list[list[str]]  # the first row is the head
# Other programs' share of the processor from which on a figure is doubtful; PyTorch's threads, which wait for each
# other, suffer more from it than XLA's.
BUSY = 0.05
NOT_MEASURED = "not measured"
_VERSIONS = ("jax", "flax", "optax", "torch")
_MODES = {"train": "training", "infer": "inference"}


def number(value: float | None, digits: int = 3) -> str:
    """A figure with so many significant digits, and thousands apart; a dash where there is none.

    >>> number(16487.3), number(0.01234), number(12.0), number(None)
    ('16,490', '0.0123', '12.0', '–')
    """
    if value is None:
        return "–"
    if abs(value) >= 1000:
        scale = 10 ** (len(str(int(abs(value)))) - digits - 1)
        return f"{int(round(value / scale) * scale):,}"
    text = f"{value:#.{digits}g}"
    return text.rstrip(".") if "e" not in text else f"{value:.{digits - 1}g}"


def percent(value: float | None) -> str:
    """
    >>> percent(0.5234), percent(None)
    ('52 %', '–')
    """
    return "–" if value is None else f"{100 * value:.0f} %"


def megabytes(value: float | None) -> str:
    """
    >>> megabytes(1_234_567_890)
    '1,235'
    """
    return "–" if value is None else f"{value / 1e6:,.0f}"


def _with_spread(value: float | None, quartiles: Sequence[float] | None, digits: int = 3) -> str:
    if value is None:
        return "–"
    between = f" ({number(quartiles[0], digits)}–{number(quartiles[1], digits)})" if quartiles else ""
    return number(value, digits) + between


def _setting(row: Mapping[str, Any]) -> list[str]:
    width = f", width {row['width']:g}" if row.get("width", 1) != 1 else ""
    return [row["model"] + width, row["mode"], str(row["batch_size"]), row["precision"]]


_HEAD = ["network", "mode", "batch", "precision"]


def ratio_table(ratios: Sequence[Mapping[str, Any]]) -> Table:
    """One row for each setting: both images/s and their ratio."""
    head = [*_HEAD, "JAX images/s", "PyTorch images/s", "its fastest", "ratio"]
    return [head] + [
        [
            *_setting(entry),
            number(entry["jax_images_per_second"]),
            number(entry["torch_images_per_second"]),
            entry["torch_variant"],
            f"{entry['ratio']:.2f}",
        ]
        for entry in ratios
    ]


def speed_table(results: Sequence[Mapping[str, Any]]) -> Table:
    """A row for each network and mode, a column for each batch size: the ratio, a range over the results where they
    differ, in float32 at full width."""
    found: dict[tuple[str, str], dict[int, list[float]]] = {}
    for entry in (entry for result in results for entry in result["ratios"]):
        if entry["precision"] == "float32" and entry.get("width", 1) == 1:
            by_batch = found.setdefault((entry["model"], entry["mode"]), {})
            by_batch.setdefault(entry["batch_size"], []).append(entry["ratio"])
    batches = sorted({batch for by_batch in found.values() for batch in by_batch})
    head = ["JAX images/s over PyTorch's", *(f"batch {batch}" for batch in batches)]
    return [head] + [
        [f"{model}, {_MODES.get(mode, mode)}", *(_range(by_batch.get(batch, [])) for batch in batches)]
        for (model, mode), by_batch in found.items()
    ]


def _range(values: Sequence[float]) -> str:
    low, high = (f"{end(values):.2f}" if values else "–" for end in (min, max))
    return low if low == high else f"{low}–{high}"


def rows_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Every row with its speed, spread and ratio."""
    head = [*_HEAD, "program", "images/s (quartiles)", "n", "ms/step", "ratio (quartiles)", "MFU", "floor", "note"]
    return [head] + [
        [
            *_setting(row),
            ("**" if row["best"] else "") + _program(row) + ("**" if row["best"] else ""),
            _with_spread(row["images_per_second"], row["images_per_second_quartiles"]),
            str(row["n"]),
            number(row["ms_per_step"]),
            _with_spread(row["ratio"], row["ratio_quartiles"]),
            percent(row["mfu"]),
            percent(row["floor_fraction"]),
            row["note"] or ("" if row["images_per_second"] else NOT_MEASURED),
        ]
        for row in rows
    ]


def parts_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Of every row: parts of the step, compilation, first step, memory."""
    head = [*_HEAD[:3], "precision", "program", "forward ms", "backward ms", "optimizer ms", "compile s"]
    head += ["first step s", "with cache s", "peak MB", "busy elsewhere"]
    return [head] + [
        [
            *_setting(row),
            _program(row),
            *(number(row[name]) for name in ("forward_ms", "backward_ms", "optimizer_ms", "compile_seconds")),
            *(number(row[name]) for name in ("first_step_seconds", "first_step_seconds_cached")),
            megabytes(row["peak_memory_bytes"]),
            percent(row["busy_elsewhere"]),
        ]
        for row in rows
        if row["images_per_second"]
    ]


def roofline_table(roofline: Mapping[str, Any]) -> Table:
    """The chip's measured rates."""
    lines = [["measured rate", "JAX", "PyTorch", "taken"]]
    for precision, rate in roofline["matmul_flops_per_second"].items():
        figures = [f"{number(rate[side] / 1e9)} GFLOP/s" for side in ("jax", "torch", "best")]
        lines.append([f"matrix product, {precision}, {rate['size']}×{rate['size']}", *figures])
    copy = roofline["copy_bytes_per_second"]
    lines.append(
        [f"copy, {megabytes(copy['bytes'])} MB", *(f"{number(copy[k] / 1e9)} GB/s" for k in ("jax", "torch", "best"))]
    )
    return lines


def _program(row: Mapping[str, Any]) -> str:
    return f"{'JAX' if row['framework'] == 'jax' else 'PyTorch'} {row['variant']}"


def machine(environment: Mapping[str, Any]) -> str:
    """What a table was measured on, in one line."""
    versions = environment["versions"]
    named = ", ".join(f"{name} {versions[name]}" for name in _VERSIONS if name in versions)
    gpu = f"{environment['gpu']}; " if environment.get("gpu") else ""
    return (
        f"{gpu}{environment['cpu']}, {environment['cores']} cores; {named}; {environment['date']}, "
        f"revision {environment['git_revision'][:12]}{'-dirty' * environment['git_revision'].endswith('-dirty')}"
    )


def disturbance(rows: Sequence[Mapping[str, Any]]) -> str:
    """A sentence where other programs took part of the processor while rows were timed; nothing where none did.

    >>> disturbance([{"busy_elsewhere": 0.31}, {"busy_elsewhere": 0.01}, {"busy_elsewhere": None}])
    '**The machine was not quiet: other programs kept up to 31 % of it busy in 1 of 3 rows.** '
    """
    shares = [row["busy_elsewhere"] for row in rows if (row["busy_elsewhere"] or 0) > BUSY]
    if not shares:
        return ""
    where = f"kept up to {percent(max(shares))} of it busy in {len(shares)} of {len(rows)} rows"
    return f"**The machine was not quiet: other programs {where}.** "


def markdown(table: Table) -> str:
    """
    >>> print(markdown([["a", "b"], ["x", "1"]]))
    | a | b |
    | --- | ---: |
    | x | 1 |
    """
    right = [all(_is_figure(line[i]) for line in table[1:]) and len(table) > 1 for i in range(len(table[0]))]
    rule = ["---:" if r else "---" for r in right]
    return "\n".join("| " + " | ".join(line) + " |" for line in [table[0], rule, *table[1:]])


def plain(table: Table) -> str:
    """The table in columns, for the screen."""
    clean = [[cell.replace("**", "") for cell in line] for line in table]
    widths = [max(len(line[i]) for line in clean) for i in range(len(clean[0]))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in clean)


def _is_figure(text: str) -> bool:
    return text[:1].isdigit() or text[:1] in "–-"


def start_up_table(start_up: Mapping[str, Any]) -> Table:
    """Seconds to the first step and to the end of ``--help``."""
    table = [["what", "seconds (quartiles)", "n"]]
    table += [
        [f"first step: {row['what']}", _with_spread(row["seconds"], row["quartiles"]), str(row["n"])]
        for row in start_up["first_step"]
    ]
    return table + [
        [f"`{row['what']}`", _with_spread(row["seconds"], row["quartiles"], 2), str(row["n"])]
        for row in start_up["help"]
    ]


def end_to_end_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Whole training runs."""
    head = ["program", "precision", "images", "epochs", "wall s (quartiles)", "n", "images/s", "of the bare step"]
    return [[*head, "time outside steps", "test accuracy", "ratio"]] + [
        [
            {"jax": "jaxalex.train", "torch": "torch_ref.train"}[row["framework"]],
            row["precision"],
            f"{row['train_size']:,}",
            str(row["epochs"]),
            _with_spread(row["wall_seconds"], row["wall_quartiles"]),
            str(row["n"]),
            number(row["images_per_second"]),
            percent(row["share_of_step"]),
            percent(row["outside_steps"]),
            f"{row['test_accuracy']:.1f} %",
            number(row["ratio"]),
        ]
        for row in rows
    ]
