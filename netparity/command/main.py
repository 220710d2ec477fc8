"""The command line of ``python -m netparity``."""

from __future__ import annotations

import argparse
import os
import pathlib
import sys
from collections.abc import Sequence

from netparity.command import frame
from netparity.command.frame import UsageError

_CHECK = """\
FUNCTION takes no arguments and returns what netparity.compare(…) returned:

    def check():
        return netparity.compare(netparity.linen(Net(), variables), module, images, labels=labels)
"""
_WEIGHTS = """\
A checkpoint is a .safetensors file, a PyTorch file (.pth, .pt, .bin; tensors alone, nothing in it is run), a .npz
archive, or a .msgpack file of Flax. Either may come from either framework: arrays are paired by their names and by
what they hold, and a transposed, flattened, packed or split one is recognised by its numbers.
"""


def _parser() -> frame.Parser:
    parser = frame.Parser(
        prog="python -m netparity",
        description="Compares a JAX network with a PyTorch one.",
        epilog=frame.EXIT_CODES,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    check = _command(commands, "check", "compare two networks, as a function of yours says", _CHECK)
    check.add_argument("target", metavar="FILE.py:FUNCTION", help="or package.module:FUNCTION")
    check.add_argument("--out", type=pathlib.Path, metavar="DIR", help="write report.json and report.html there")
    check.add_argument("--repro", type=pathlib.Path, metavar="DIR", help="write what reproduces the first difference")
    weights = _command(commands, "weights", "compare two checkpoints, of either framework", _WEIGHTS)
    weights.add_argument("a", type=pathlib.Path, metavar="A", help="a checkpoint")
    weights.add_argument("b", type=pathlib.Path, metavar="B", help="another one")
    weights.add_argument(
        "--rtol", type=float, default=0.0, metavar="R", help="of an array's largest value that still counts as equal"
    )
    weights.add_argument("--all", action="store_true", help="list the equal ones, too")
    return parser


def _command(commands: argparse._SubParsersAction[frame.Parser], name: str, what: str, more: str) -> frame.Parser:
    return commands.add_parser(
        name,
        help=what,
        description=f"{what[0].upper()}{what[1:]}.\n\n{more}",
        epilog=frame.EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command, by default of the command line; returns its exit code."""
    try:
        code = _run(_parser().parse_args(argv))
        sys.stdout.flush()
        return code
    except UsageError as error:
        frame.fail(str(error))
        return 2
    except OSError as error:  # of our own output: the disk is full, or whoever read it is gone (… | head)
        if not isinstance(error, BrokenPipeError):
            frame.fail(f"{error.filename or 'output'}: {error.strerror}")
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _run(args: argparse.Namespace) -> int:
    if args.command == "check":
        from netparity.command import check

        return check.run(args.target, args.out, args.repro)
    from netparity.command import weights

    return weights.run(args.a, args.b, args.rtol, args.all)
