"""``python -m parity_tests.pages.readme_tables``: the parity figures on a page, taken from ``report.json``."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.readme_tables import replaced
from jaxalex import cli
from jaxalex.errors import RunError, UsageError
from netparity.report.charts import figure_text

_FIGURES = ("float64_error", "float32_jax_rms", "float32_torch_rms", "bound")
_GRADIENTS = {"vjp_input": "input", "vjp_kernel": "kernel", "vjp_bias": "bias"}
_VERSIONS = ("jax", "flax", "optax", "torch")


def tables(report: Mapping[str, Any]) -> str:
    """Every layer of every network, with the bounds, and the score of the planted faults.

    Args:
      report: what ``report.json`` holds.
    """
    parts = [_model(name, model) for name, model in report["models"].items()]
    return "\n\n".join([*parts, _score(report)])


def evidence(report: Mapping[str, Any]) -> str:
    """The same in brief: the float64 difference of each layer with parameters, and the worst of everything.

    Args:
      report: what ``report.json`` holds.
    """
    models = report["models"]
    stages = dict.fromkeys(
        row["stage"] for model in models.values() for row in model["layers"] if row["quantity"] == "vjp_kernel"
    )
    lines = [
        "| float64: JAX against PyTorch | " + " | ".join(stages) + " | worst of all |",
        "| --- |" + " ---: |" * (len(stages) + 1),
    ]
    for name, model in models.items():
        errors: dict[str, float] = {}
        for row in model["layers"]:
            if row["float64_error"] is not None:
                errors[row["stage"]] = max(errors.get(row["stage"], 0.0), row["float64_error"])
        cells = [*(figure_text(errors.get(stage)) for stage in stages)]
        lines.append(f"| {name} | {' | '.join(cells)} | {figure_text(model['float64_max_relative_error'])} |")
    what = "The largest difference of each layer's output and gradients, relative to their scale; worst of all: also"
    return "\n".join(lines) + f"\n\n{what} losses, optimizer, data and metrics. {_score(report)}"


# What a page may ask for, by the name in its markers.
PARTS: dict[str, Callable[[Mapping[str, Any]], str]] = {"parity": tables, "evidence": evidence}


def filled(page: str, report: Mapping[str, Any]) -> str:
    """A page with each of the `PARTS` between its markers, ``<!-- parity:begin -->`` and ``<!-- parity:end -->``.

    Raises:
      UsageError: if markers do not come in pairs, in order, or the page has none.
    """
    done = False
    for name, write in PARTS.items():
        if f"<!-- {name}:begin -->" in page:
            page, done = replaced(page, name, write(report)), True
    if not done:
        raise UsageError("needs markers: " + ", ".join(f"<!-- {name}:begin -->" for name in PARTS))
    return page


def _model(name: str, model: Mapping[str, Any]) -> str:
    layers = model["layers"]
    outputs = [layer for layer in layers if layer["quantity"] == "output"]
    exact = [layer["stage"] for layer in outputs if all(layer[key] == 0 for key in _FIGURES[:3])]
    rows = [(f"`{layer['stage']}`", layer) for layer in outputs if layer["stage"] not in exact]
    for quantity, label in _GRADIENTS.items():
        own = [layer for layer in layers if layer["quantity"] == quantity]
        if own:
            worst = max(own, key=_share_of_bound)
            rows.append((f"{label} gradient, worst: `{worst['stage']}`", worst))
    lines = [
        f"**{name}**{_shape(model)}",
        "",
        "| layer | float64 | float32 JAX | float32 PyTorch | bound |",
        "| --- | ---: | ---: | ---: | ---: |",
        *(f"| {label} | {' | '.join(figure_text(layer.get(key)) for key in _FIGURES)} |" for label, layer in rows),
    ]
    if exact:
        lines += ["", f"Exact on both sides: {', '.join(f'`{stage}`' for stage in exact)}."]
    return "\n".join(lines)


def _shape(model: Mapping[str, Any]) -> str:
    images = "×".join(str(n) for n in model["image_shape"])
    return f", images {images}, batch size {model['batch_size']}, width {model['width']:g}"


def _share_of_bound(layer: Mapping[str, Any]) -> tuple[float, float]:
    """How near a layer comes to its bound; by float64 where float32 was not run."""
    error, bound = layer.get("float32_jax_max"), layer.get("bound")
    return (error / bound if error is not None and bound else 0.0, layer["float64_error"] or 0.0)


def _score(report: Mapping[str, Any]) -> str:
    scores = []
    for name, model in report["models"].items():
        faults = model.get("faults")
        if faults:
            scores.append(
                f"{name} {faults['caught']} of {faults['planted']} caught, {faults['located']} located, "
                f"{faults['false_alarms']} false alarms on {faults['right_programs']} right programs"
            )
    environment = report["environment"]
    versions = ", ".join(f"{v} {environment['versions'][v]}" for v in _VERSIONS if v in environment["versions"])
    machine = f"{environment['cpu']}, {environment['cores']} cores; {versions}"
    named = {side: "cpu" if device.startswith("cpu") else device for side, device in environment["devices"].items()}
    devices = ", ".join(f"{side} on {device}" for side, device in named.items())
    verdict = "Parity holds." if report["passed"] else "**Parity fails.**"
    return f"{verdict} Planted faults: {'; '.join(scores) or 'not run'}. Measured on {machine}; {devices}."


def _parser() -> cli.Parser:
    parser = cli.Parser(
        "python -m parity_tests.pages.readme_tables",
        f"Writes what a parity report found between the markers of a page. Markers: {', '.join(PARTS)}.",
    )
    parser.add_argument("report", type=pathlib.Path, metavar="REPORT.json", help="as python -m parity_tests wrote it")
    parser.add_argument("page", type=pathlib.Path, metavar="PAGE.md", help="the page that holds the markers")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if the two disagree")
    return parser


def _read(path: pathlib.Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error


def _report_of(path: pathlib.Path) -> dict[str, Any]:
    try:
        return json.loads(_read(path))
    except json.JSONDecodeError as error:
        raise UsageError(f"{path}: not JSON ({error})") from error


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; see ``--help``. Returns the exit code."""

    def command() -> None:
        args = _parser().parse(argv)
        report, page = _report_of(args.report), _read(args.page)
        try:
            wanted = filled(page, report)
        except UsageError as error:
            raise UsageError(f"{args.page}: {error}") from error
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise UsageError(f"{args.report}: not a parity report ({type(error).__name__}: {error})") from error
        if args.check and wanted != page:
            raise RunError(f"{args.page} disagrees with {args.report}: run this again without --check")
        if not args.check:
            args.page.write_text(wanted, encoding="utf-8")

    return cli.run(command)


if __name__ == "__main__":
    cli.end(main())
