"""How long until the first step, and until ``--help``: ``python -m benchmarks.start_up``.

Real commands in fresh processes, in turn: JAX with an empty compilation cache, JAX with what that left, PyTorch.
The training set has one batch, so that the first epoch is the first step.
"""

from __future__ import annotations

import pathlib
import statistics
import tempfile
from collections.abc import Sequence
from typing import Any

from benchmarks import commands, flags, result
from benchmarks.figures import spread
from jaxalex import cli
from jaxalex.networks.tables import NETWORKS

_HELP = ("jaxalex.train", "jaxalex.evaluate", "jaxalex.predict", "jaxalex.summary", "benchmarks")


def measure(model: str, width: float, batch_size: int, device: str, precision: str, repeats: int) -> dict[str, Any]:
    """Seconds from the start of the process to the end of the first step, and to the end of ``--help``."""
    limits = ["--dataset", "digits", "--num-epochs", "1", "--limit-train", str(batch_size), "--limit-eval", "1"]
    given = [*limits, "--model", model, "--width", str(width), "--batch-size", str(batch_size), "--device", device]
    seconds: dict[str, list[float]] = {"JAX, cold": [], "JAX, cached": [], "PyTorch, eager": []}
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            cache = pathlib.Path(folder)
            for name in ("JAX, cold", "JAX, cached"):
                run = commands.training("jaxalex.train", [*given, "--precision", precision], cache)
                seconds[name].append(run["first_step_seconds"])
        seconds["PyTorch, eager"].append(commands.training("torch_ref.train", given)["first_step_seconds"])
    helps = {name: [commands.timed([name, "--help"])[0] for _ in range(repeats)] for name in _HELP}
    return {
        "setting": {"model": model, "width": width, "batch_size": batch_size, "device": device, "precision": precision},
        "first_step": [_row(name, values) for name, values in seconds.items()],
        "help": [_row(f"python -m {name} --help", values) for name, values in helps.items()],
        "device": run["device"],
    }


def _row(what: str, seconds: Sequence[float]) -> dict[str, Any]:
    return {"what": what, "seconds": statistics.median(seconds), "quartiles": spread(seconds), "n": len(seconds)}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; see ``--help``. Returns the exit code."""

    def command() -> None:
        parser = cli.Parser("python -m benchmarks.start_up", __doc__ or "")
        parser.add_argument("--model", choices=tuple(NETWORKS), default="cifar10", help="default cifar10")
        parser.add_argument("--width", type=float, default=1.0, metavar="F", help="of the network (default 1)")
        parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="default 32")
        parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu", help="default cpu")
        parser.add_argument("--precision", choices=("float32", "tf32", "bfloat16"), default="float32", help="of JAX")
        parser.add_argument("--repeats", type=int, default=3, metavar="N", help="default 3")
        parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write the result there")
        args = parser.parse(argv)
        flags.check(args)
        found = measure(args.model, args.width, args.batch_size, args.device, args.precision, args.repeats)
        gpu = found["device"].removeprefix("gpu: ") if args.device == "gpu" else None
        whole = {"environment": result.describe(vars(args), gpu), "start_up": found}
        from benchmarks import tables

        print(tables.plain(tables.start_up_table(found)))
        if args.json:
            result.write(args.json, whole)

    return cli.run(command)


if __name__ == "__main__":
    cli.end(main())
