"""``python -m benchmarks``: images per second of the JAX program beside PyTorch at its fastest."""

from __future__ import annotations

import argparse
import pathlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks import flags
from benchmarks import settings as s
from jaxalex import cli
from jaxalex.errors import RunError

_EPILOG = """\
examples:
  python -m benchmarks --json FILE --html FILE --png FILE
  python -m benchmarks --model cifar10 --mode train --batch-size 32,128
  python -m benchmarks --device gpu --precision bfloat16,tf32 --json FILE --resume"""


def _parser() -> cli.Parser:
    parser = cli.Parser(
        "python -m benchmarks",
        "Measures training and inference in JAX and in PyTorch, in turn, each in processes of its own.",
        _EPILOG,
    )
    add = parser.add_argument_group("what to measure").add_argument
    add(
        "--model",
        type=_among((*s.MODELS, "all")),
        default="cifar10,paper",
        metavar="M,M,…",
        help=f"default cifar10,paper; of {', '.join(s.MODELS)}, or all",
    )
    add("--mode", choices=(*s.MODES, "all"), default="all", help="default all")
    add(
        "--batch-size",
        type=_numbers,
        metavar="N,N,…",
        help=f"default {_listed(s.BATCH_SIZES['cpu'])}; on a GPU {_listed(s.BATCH_SIZES['gpu'])}",
    )
    add("--device", choices=s.DEVICES, default="cpu", help="default cpu")
    add(
        "--precision",
        type=_among(s.PRECISIONS),
        default="float32",
        metavar="P,P,…",
        help=f"default float32; of {', '.join(s.PRECISIONS)}",
    )
    add("--width", type=float, default=1.0, metavar="F", help="of the networks (default 1)")
    add(
        "--variants",
        type=_among((*s.TORCH_VARIANTS, "all")),
        metavar="V,V,…",
        help=f"rows of PyTorch, of {', '.join(s.TORCH_VARIANTS)} (default: all; with --quick the first two)",
    )
    add("--seed", type=int, default=0, metavar="N", help="of parameters and images (default 0)")
    add = parser.add_argument_group("how to measure").add_argument
    add("--repeats", type=int, metavar="N", help="samples of each variant, at least 3 (default 7)")
    add("--sample-seconds", type=float, metavar="S", help="a sample takes at least so long (default 0.3)")
    add("--setting-seconds", type=float, metavar="S", default=40.0, help="no fourth sample after so long (default 40)")
    add("--warmup", type=int, default=3, metavar="N", help="steps before the first sample, at least 3 (default 3)")
    add("--no-parts", action="store_true", help="leave out forward, backward, optimizer and the cached first step")
    add("--memory-limit", type=float, metavar="MB", help="what a worker may take beyond its imports")
    add("--quick", action="store_true", help="a smoke run: width 0.05, batch 4, short samples, no compiled PyTorch")
    add = parser.add_argument_group("output").add_argument
    add("--json", type=pathlib.Path, metavar="FILE", help="write the result there, after every setting")
    add("--html", type=pathlib.Path, metavar="FILE", help="write a page with all of it there")
    add("--png", type=pathlib.Path, metavar="FILE", help="write the curves over the batch size there")
    add("--resume", action="store_true", help="leave out what FILE of --json holds already")
    add("--time-limit", type=float, metavar="S", help="begin no setting after so long; exit code 1 if some are left")
    return parser


def _listed(numbers: Sequence[int]) -> str:
    return ",".join(map(str, numbers))


def _numbers(text: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = [0]
    if min(numbers) < 1:
        raise argparse.ArgumentTypeError(f"must be whole numbers from 1 on, with commas between, not {text!r}")
    return numbers


def _among(known: Sequence[str]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        found = [part.strip() for part in text.split(",")]
        unknown = [part for part in found if part not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"unknown {', '.join(unknown)}: known are {', '.join(known)}")
        return found

    return parse


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; see ``--help``. Returns the exit code."""
    return cli.run(lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> None:
    parser = _parser()
    args = parser.parse(argv)
    _check(parser, args)
    until = None if args.time_limit is None else time.monotonic() + args.time_limit
    if args.quick and args.width == 1.0:
        args.width = 0.05
    args.batch_size = args.batch_size or ([4] if args.quick else list(s.BATCH_SIZES[args.device]))
    if args.variants is None or "all" in args.variants:
        args.variants = list(s.TORCH_VARIANTS[: 2 if args.quick and args.variants is None else None])
    args.repeats = args.repeats or (3 if args.quick else 7)
    args.sample_seconds = args.sample_seconds or (0.02 if args.quick else 0.3)
    precisions = [args.precision] if isinstance(args.precision, str) else args.precision
    models = s.MODELS if "all" in args.model else args.model
    modes = s.MODES if args.mode == "all" else (args.mode,)
    plan = s.plan(models, modes, args.batch_size, precisions, args.device, args.width)

    from benchmarks import suite
    from benchmarks.measure import Options

    options = Options(
        repeats=args.repeats,
        sample_seconds=args.sample_seconds,
        setting_seconds=args.setting_seconds,
        warmup=args.warmup,
        torch_variants=args.variants,
        parts=not args.no_parts,
        seed=args.seed,
        memory_limit=None if args.memory_limit is None else int(1e6 * args.memory_limit),
    )
    run = suite.Suite(options, args.quick, vars(args), args.json, _progress)
    complete = run.run(plan, args.resume, until)
    _report(args, run.result)
    failures = run.failures()
    if failures:
        raise RunError(f"not all could be measured: {'; '.join(failures)}")
    if not complete:
        raise RunError("the time limit came before the end: run the same command with --resume to go on")


def _check(parser: cli.Parser, args: argparse.Namespace) -> None:
    flags.check(args, repeats=3, warmup=3)
    if args.resume and args.json is None:
        parser.error("--resume needs --json FILE")


def _report(args: argparse.Namespace, result: dict[str, Any]) -> None:
    from benchmarks import page, tables

    print(tables.plain(tables.rows_table(result["rows"])))
    print()
    print(tables.plain(tables.ratio_table(result["ratios"])))
    print(tables.disturbance(result["rows"]).replace("**", ""))
    if args.png is not None:
        from benchmarks import charts

        args.png.write_bytes(charts.growth(result["rows"]))
    if args.html is not None:
        args.html.write_text(page.html(result), encoding="utf-8")


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    cli.end(main())
