"""``python -m torch_ref.train``: trains AlexNet the way a PyTorch user writes it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

from torch_ref.cli import Parser, UsageError, exit_code, integer, number, run_as_command
from torch_ref.config import MODELS, Config

PROG = "python -m torch_ref.train"
FLOAT32_MAX = 3.4e38  # nearly: what the optimizer takes


def parser() -> Parser:
    """The command's arguments, in groups; every default is that of ``Config``."""
    result = Parser(
        prog=PROG,
        description="Train AlexNet in plain PyTorch: the reference that the JAX program is compared with.",
        epilog="Flags may be spelled with dashes or underscores. Exit codes: 0 done, 1 failed while "
        "running, 2 bad input, 129, 130 or 143 stopped by a signal.",
    )
    add = result.add_argument_group("network").add_argument
    add("--model", choices=MODELS, help="the network (default: %(default)s)")
    width = number(positive=True, at_most=16)
    add("--width", type=width, metavar="X", help="factor on all hidden sizes (default: %(default)s)")
    add(
        "--softmax-in-network",
        action="store_true",
        help="the classic mistake, for comparison: a softmax before the cross-entropy",
    )
    add = result.add_argument_group("data").add_argument
    add("--dataset", choices=["cifar10", "digits"], help="default: %(default)s")
    add("--data-dir", metavar="DIR", help="holds cifar-10-batches-py/ (default: $JAXALEX_DATA_DIR)")
    add("--limit-train", type=integer(1), metavar="N", help="first N images of the shuffled train split")
    add("--limit-eval", type=integer(1), metavar="N", help="first N images of the eval split and of test")
    add = result.add_argument_group("optimization").add_argument
    add("--batch-size", type=integer(1, 2**31 - 1), metavar="N", help="default: %(default)s")
    add("--num-epochs", type=integer(1), metavar="N", help="default: %(default)s")
    add("--learning-rate", type=number(positive=True, at_most=FLOAT32_MAX), metavar="X", help="default: %(default)s")
    add("--momentum", type=number(below=1), metavar="X", help="default: %(default)s")
    add("--weight-decay", type=number(at_most=FLOAT32_MAX), metavar="X", help="default: %(default)s")
    add("--seed", type=integer(0, 2**32 - 1), metavar="N", help="default: %(default)s")
    add = result.add_argument_group("run").add_argument
    add("--device", choices=["auto", "cpu", "gpu"], help="auto: a GPU if there is one (default: auto)")
    add("--workdir", type=Path, metavar="DIR", help="what the run leaves (default: a new folder in runs/)")
    result.set_defaults(**dataclasses.asdict(Config(data_dir=os.environ.get("JAXALEX_DATA_DIR") or None)))
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command with the arguments ``argv`` (None: those of the process).

    Returns:
      The exit code: 0 done, 1 failed while running, 2 bad input.

    Raises:
      SystemExit: for arguments that can't be read (code 2), and after ``--help`` (code 0).
    """
    options = vars(parser().parse_args(argv))
    workdir = options.pop("workdir")

    def work() -> None:
        if options["data_dir"] is not None:
            options["data_dir"] = _absolute(options["data_dir"])
        from torch_ref.loop import train_and_evaluate  # imports torch, which --help can do without

        train_and_evaluate(Config(**options), workdir)

    return exit_code(PROG, work)


def _absolute(folder: str) -> str:
    """A folder by the name that it has from every other folder, too."""
    try:
        return str(Path(folder).expanduser().absolute())
    except RuntimeError as error:  # ~nobody
        raise UsageError(f"--data-dir {folder}: {error}") from error


if __name__ == "__main__":
    run_as_command(main)
