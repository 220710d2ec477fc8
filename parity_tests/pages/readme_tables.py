"""``python -m parity_tests.pages.readme_tables``: the parity figures in the README, taken from ``report.json``."""

from __future__ import annotations

import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from jaxalex import cli
from jaxalex.errors import RunError, UsageError
from netparity.report.charts import figure_text

BEGIN, END = "<!-- parity:begin -->", "<!-- parity:end -->"
_FIGURES = ("float64_error", "float32_jax_rms", "float32_torch_rms", "bound")
_GRADIENTS = {"vjp_input": "input", "vjp_kernel": "kernel", "vjp_bias": "bias"}
_VERSIONS = ("jax", "flax", "optax", "torch")


def tables(report: Mapping[str, Any]) -> str:
    """The Markdown that stands between the markers.

    Args:
      report: what ``report.json`` holds.
    """
    parts = [_model(name, model) for name, model in report["models"].items()]
    return "\n\n".join([*parts, _score(report)])


def replaced(readme: str, content: str) -> str:
    """A README with ``content`` between its markers.

    Raises:
      UsageError: unless it has each marker once, in order.

    >>> print(replaced("a\\n<!-- parity:begin -->\\nold\\n<!-- parity:end -->", "new"))
    a
    <!-- parity:begin -->
    <BLANKLINE>
    new
    <BLANKLINE>
    <!-- parity:end -->
    """
    if readme.count(BEGIN) != 1 or readme.count(END) != 1 or readme.index(END) < readme.index(BEGIN):
        raise UsageError(f"needs one line {BEGIN} and after it one line {END}")
    before, rest = readme.split(BEGIN)
    return f"{before}{BEGIN}\n\n{content}\n\n{END}{rest.split(END)[1]}"


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
    devices = ", ".join(f"{side} on {device}" for side, device in environment["devices"].items())
    verdict = "Parity holds." if report["passed"] else "**Parity fails.**"
    return f"{verdict} Planted faults: {'; '.join(scores) or 'not run'}. Measured on {machine}; {devices}."


def _parser() -> cli.Parser:
    parser = cli.Parser(
        "python -m parity_tests.pages.readme_tables",
        f"Writes the per-layer figures and the fault score between {BEGIN} and {END}.",
    )
    parser.add_argument("report", type=pathlib.Path, metavar="REPORT.json", help="as python -m parity_tests wrote it")
    parser.add_argument("readme", type=pathlib.Path, metavar="README.md", help="the page that holds the markers")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if the two disagree")
    return parser


def _read(path: pathlib.Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error


def _tables_of(path: pathlib.Path) -> str:
    try:
        return tables(json.loads(_read(path)))
    except json.JSONDecodeError as error:
        raise UsageError(f"{path}: not JSON ({error})") from error
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UsageError(f"{path}: not a parity report ({type(error).__name__}: {error})") from error


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; see ``--help``. Returns the exit code."""

    def command() -> None:
        args = _parser().parse(argv)
        content, readme = _tables_of(args.report), _read(args.readme)
        try:
            wanted = replaced(readme, content)
        except UsageError as error:
            raise UsageError(f"{args.readme}: {error}") from error
        if args.check and wanted != readme:
            raise RunError(f"{args.readme} disagrees with {args.report}: run this again without --check")
        if not args.check:
            args.readme.write_text(wanted, encoding="utf-8")

    return cli.run(command)


if __name__ == "__main__":
    sys.exit(main())
