"""Whole training runs of both programs, in turn: ``python -m benchmarks.end_to_end``.

The real commands, ``jaxalex.train`` and ``torch_ref.train``, on the same data, for the same epochs, everything
included: start, data, compilation (never from a cache), evaluation, files. Several sizes of the training set give
the growth of an epoch's time.
"""

from __future__ import annotations

import argparse
import math
import os
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import commands, flags, result
from benchmarks.figures import spread
from benchmarks.measure import Options, first_step
from benchmarks.process import Worker, WorkerError
from benchmarks.settings import Setting
from jaxalex import cli
from jaxalex.errors import RunError, UsageError
from jaxalex.networks.tables import NETWORKS

_PROGRAMS = {"jax": "jaxalex.train", "torch": "torch_ref.train"}
_STEPS = {"jax": "train_epoch", "torch": "eager"}  # what the commands run


def _parser() -> cli.Parser:
    parser = cli.Parser("python -m benchmarks.end_to_end", __doc__ or "")
    add = parser.add_argument
    add("--dataset", choices=("digits", "cifar10"), default="digits", help="default digits")
    add("--data-dir", metavar="DIR", help="where cifar-10-batches-py lies (default: $JAXALEX_DATA_DIR)")
    add("--model", choices=tuple(NETWORKS), default="cifar10", help="default cifar10")
    add("--width", type=float, default=1.0, metavar="F", help="of the network (default 1)")
    add("--batch-size", type=int, default=32, metavar="N", help="default 32")
    add("--num-epochs", type=int, default=2, metavar="N", help="default 2")
    add("--limit-train", type=int, nargs="+", metavar="N", help="sizes of the training set (default: all of it)")
    add("--limit-eval", type=int, metavar="N", help="evaluate and test on the first N each")
    add("--device", choices=("cpu", "gpu"), default="cpu", help="default cpu")
    add(
        "--precision",
        nargs="+",
        choices=("float32", "tf32", "bfloat16"),
        default=["float32"],
        help="of JAX's runs; PyTorch's are float32 (default float32)",
    )
    add("--pairs", type=int, default=3, metavar="N", help="runs of each (default 3)")
    add("--json", type=pathlib.Path, metavar="FILE", help="write the result there, after every run")
    add("--png", type=pathlib.Path, metavar="FILE", help="write the curve over the size of the training set there")
    add("--resume", action="store_true", help="leave out the runs that FILE of --json holds already")
    add("--time-limit", type=float, metavar="S", help="end after so long; exit code 1 if runs are left")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; see ``--help``. Returns the exit code."""
    return cli.run(lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> None:
    parser = _parser()
    args = parser.parse(argv)
    flags.check(args)
    if args.dataset == "cifar10":
        _check_data(args.data_dir or os.environ.get("JAXALEX_DATA_DIR"))
    if args.resume and args.json is None:
        parser.error("--resume needs --json FILE")
    until = math.inf if args.time_limit is None else time.monotonic() + args.time_limit
    whole: dict[str, Any] = {"environment": {}, "runs": [], "steps": [], "rows": []}
    if args.resume and args.json.exists():
        whole = result.read(args.json, "runs", "steps", "rows")
        _check_same(args, whole["environment"])
    for run in _wanted(args):
        if not any(all(done[k] == v for k, v in run.items()) for done in whole["runs"]):
            _say(f"{_PROGRAMS[run['framework']]}, {run['precision']}, run {run['pair'] + 1}")
            whole["runs"].append(run | _run(args, run, until))
            _finish(args, whole)
    _measure_steps(args, whole, until)
    _finish(args, whole)
    from benchmarks import charts, tables

    print(tables.plain(tables.end_to_end_table(whole["rows"])))
    if args.png is not None:
        args.png.write_bytes(charts.epochs([r for r in whole["rows"] if r["precision"] == args.precision[0]]))


def _check_data(folder: str | None) -> None:
    """Both programs can read CIFAR-10 in this form; nothing is downloaded for a measurement."""
    from jaxalex import data  # imports NumPy, which --help can do without

    form, folder = "cifar-10-batches-py", data.stored_dir(folder) if folder else None
    if folder is None or not (pathlib.Path(folder) / form).is_dir():
        where = f"no {form} in {folder}" if folder else "no data folder"
        raise UsageError(f"{where}: give --data-dir, or set JAXALEX_DATA_DIR, to the folder that holds {form}")


def _check_same(args: argparse.Namespace, before: Mapping[str, Any]) -> None:
    """Refuses to go on with a file whose runs were others."""
    now = result.describe(vars(args), None)
    for name in ("git_revision", "cpu", "cores", "versions"):
        if before.get(name) != now[name]:
            raise UsageError(f"{args.json}: holds runs of another {name}: use a new file")
    for name in ("dataset", "model", "width", "batch_size", "num_epochs", "limit_eval", "device"):
        if before.get("flags", {}).get(name) != now["flags"].get(name):
            raise UsageError(f"{args.json}: holds runs with another --{name.replace('_', '-')}: use a new file")


def _wanted(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Every run, JAX and PyTorch in turn."""
    sides = [("jax", precision) for precision in args.precision]
    sides.insert(1, ("torch", "float32"))
    return [
        {"framework": framework, "precision": precision, "limit_train": limit, "pair": pair}
        for limit in args.limit_train or [None]
        for pair in range(args.pairs)
        for framework, precision in sides
    ]


def _run(args: argparse.Namespace, run: Mapping[str, Any], until: float) -> dict[str, Any]:
    given = ["--dataset", args.dataset, "--model", args.model, "--device", args.device, "--width", str(args.width)]
    given += ["--batch-size", str(args.batch_size), "--num-epochs", str(args.num_epochs)]
    for name, value in (
        ("--data-dir", args.data_dir),
        ("--limit-train", run["limit_train"]),
        ("--limit-eval", args.limit_eval),
    ):
        given += [name, str(value)] if value is not None else []
    if run["framework"] == "jax":
        given += ["--precision", run["precision"]]
    left = until - time.monotonic()
    if left < 1:
        raise RunError("the time limit came before the end: run the same command with --resume to go on")
    return commands.training(_PROGRAMS[run["framework"]], given, None, None if left == math.inf else left)


def _measure_steps(args: argparse.Namespace, whole: dict[str, Any], until: float) -> None:
    """Images/s of the bare step of each side, in turn, unless they are there already."""
    sides = [("jax", precision) for precision in args.precision] + [("torch", "float32")]
    for framework, precision in sides:
        if any((s["framework"], s["precision"]) == (framework, precision) for s in whole["steps"]):
            continue
        if until - time.monotonic() < 1:
            raise RunError("the time limit came before the end: run the same command with --resume to go on")
        _say(f"bare step of {framework}, {precision}")
        setting = Setting(args.model, "train", args.batch_size, precision, args.device, args.width)
        with tempfile.TemporaryDirectory() as folder, Worker(framework, pathlib.Path(folder)) as worker:
            try:
                options = Options()
                facts = first_step(worker, setting, _STEPS[framework], options, pathlib.Path(folder) / "xla")
                seconds = worker.ask("sample", program="step", calls=3)["seconds"] / 3
                calls = max(1, math.ceil(1.0 / seconds))
                samples = [worker.ask("sample", program="step", calls=calls)["seconds"] for _ in range(5)]
            except WorkerError as error:
                raise RunError(str(error)) from error
        rates = [facts["images"] * calls / seconds for seconds in samples]
        whole["steps"].append(
            {
                "framework": framework,
                "precision": precision,
                "images_per_second": statistics.median(rates),
                "quartiles": spread(rates),
                "n": len(rates),
            }
        )


def _finish(args: argparse.Namespace, whole: dict[str, Any]) -> None:
    """Rows from the runs so far, and the file."""
    device = next(run["device"] for run in whole["runs"] if run["framework"] == "jax")
    gpu = device.removeprefix("gpu: ") if args.device == "gpu" else None
    whole["environment"] = result.describe(vars(args), gpu)
    whole["rows"] = rows(whole["runs"], whole["steps"], args.num_epochs)
    if args.json is not None:
        result.write(args.json, whole)


def rows(
    runs: Sequence[Mapping[str, Any]], steps: Sequence[Mapping[str, Any]], num_epochs: int
) -> list[dict[str, Any]]:
    """Medians by framework, precision and size of the training set.

    ``share_of_step`` is the epochs' images/s over the bare step's; ``outside_steps`` the share of the wall time that
    the bare steps would not have taken; ``ratio`` PyTorch's wall time over JAX's, by pairs, where the precision is
    the same.
    """
    found = []
    for framework, precision, size in dict.fromkeys((r["framework"], r["precision"], r["train_size"]) for r in runs):
        own = [r for r in runs if (r["framework"], r["precision"], r["train_size"]) == (framework, precision, size)]
        wall = statistics.median(r["wall_seconds"] for r in own)
        rate = statistics.median(size * num_epochs / sum(r["epoch_seconds"]) for r in own)
        step = [s["images_per_second"] for s in steps if (s["framework"], s["precision"]) == (framework, precision)]
        theirs = {r["pair"]: r["wall_seconds"] for r in runs if _is_peer(r, precision, size)}
        ratios = [theirs[r["pair"]] / r["wall_seconds"] for r in own if framework == "jax" and r["pair"] in theirs]
        found.append(
            {
                "framework": framework,
                "precision": precision,
                "train_size": size,
                "epochs": num_epochs,
                "n": len(own),
                "wall_seconds": wall,
                "wall_quartiles": spread([r["wall_seconds"] for r in own]),
                "images_per_second": rate,
                "epoch_seconds": statistics.median(r["epoch_seconds"][-1] for r in own),
                "share_of_step": rate / step[0] if step else None,
                "outside_steps": 1 - size * num_epochs / step[0] / wall if step else None,
                "test_accuracy": own[-1]["test_accuracy"],
                "ratio": statistics.median(ratios) if ratios else None,
            }
        )
    return found


def _is_peer(run: Mapping[str, Any], precision: str, size: int) -> bool:
    return run["framework"] == "torch" and run["precision"] == precision and run["train_size"] == size


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    cli.end(main())
