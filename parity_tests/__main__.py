"""``python -m parity_tests``: compares the networks at full width and writes the report."""

from __future__ import annotations

import argparse
import pathlib
import sys
import time
from collections.abc import Sequence

from jaxalex import cli
from jaxalex.errors import RunError, UsageError
from jaxalex.networks.tables import NETWORKS
from jaxalex.system import files, settings

DTYPES = ("float64", "float32")


def _parser() -> cli.Parser:
    parser = cli.Parser(
        "python -m parity_tests",
        "Proves that the JAX networks and the PyTorch reference are the same program, at full width.",
        "Images: CIFAR-10 where JAXALEX_DATA_DIR names its folder, else the embedded digits.\n"
        "Exit code 1 also means that parity does not hold.",
    )
    parser.add_argument("--model", choices=(*NETWORKS, "all"), default="all", help="default all")
    parser.add_argument("--dtype", choices=(*DTYPES, "all"), default="all", help="default all")
    parser.add_argument("--steps", type=int, metavar="K", help="of training (default: cifar10 100, the others 20)")
    parser.add_argument("--out", type=pathlib.Path, metavar="DIR", help="write report.json and report.html there")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write the object of report.json there")
    parser.add_argument("--width", type=float, default=1.0, metavar="F", help="of the networks (default 1)")
    parser.add_argument("--batch-size", type=int, default=2, metavar="N", help="default 2; training takes 4 N")
    parser.add_argument("--device", choices=("auto", "cpu", "gpu"), default="auto", help="default auto: a GPU if any")
    parser.add_argument("--no-faults", action="store_true", help="leave the planted faults out")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return cli.run(lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> None:
    args = _parser().parse(argv)
    _check(args)
    settings.start_jax()
    from netparity import full_float32
    from netparity.report import document, screen
    from parity_tests.alexnet import suite
    from parity_tests.alexnet.environment import environment
    from parity_tests.alexnet.networks import Case

    torch_device = _use_device(args.device)
    full_float32()
    start, results, whole = time.perf_counter(), {}, {}
    arguments = {name: value for name, value in vars(args).items() if name not in ("out", "json")}
    for model in NETWORKS if args.model == "all" else (args.model,):
        case = Case(model, args.width, args.batch_size)
        steps = args.steps or (100 if model == "cifar10" else 20)
        dtypes = DTYPES if args.dtype == "all" else (args.dtype,)
        result = suite.run(case, steps, dtypes, 4 * args.batch_size, _progress, torch_device)
        if not args.no_faults:
            from parity_tests.faults import score as fault_score

            result.faults = fault_score.score(model, progress=_progress)
        _progress("")
        print(screen.summary(model, result), end="\n\n", flush=True)
        results[model] = result
        # Written after each network: what is proven is not lost if the next one is stopped.
        whole = document.to_dict(results, environment(arguments, time.perf_counter() - start, torch_device))
        text = document.write(whole, args.out) if args.out else document.text(whole)
        if args.json:
            args.json.write_text(text)
    if not whole["passed"]:
        raise RunError("parity does not hold: " + ", ".join(name for name, r in results.items() if not r.passed))
    print("Parity holds.")


def _check(args: argparse.Namespace) -> None:
    for name, high in (("steps", 1_000_000), ("batch_size", 1000)):
        value = getattr(args, name)
        if value is not None and not 1 <= value <= high:
            raise UsageError(f"--{name.replace('_', '-')} must be at least 1 and at most {high:,}, not {value}")
    if not 0 < args.width <= 1:
        raise UsageError(f"--width must be above 0 and at most 1, not {args.width}")
    files.check_output("--out", args.out, folder=True)
    files.check_output("--json", args.json)


def _use_device(name: str) -> str:
    """Makes a device JAX's default; returns PyTorch's name for one of the same kind."""
    import jax
    import torch

    from jaxalex.system.devices import choose_device

    device = choose_device(name, "float32")
    if device.platform != "cpu" and not torch.cuda.is_available():
        raise UsageError("JAX finds a GPU here and PyTorch does not: install PyTorch for it, or use --device cpu")
    jax.config.update("jax_default_device", device)
    return "cpu" if device.platform == "cpu" else "cuda"


def _progress(text: str) -> None:
    """One line on stderr that overwrites itself; nothing where that is no terminal."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    cli.end(main())
