"""What the commands share: how arguments are read, and which exit code a failure has."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, NoReturn


class UsageError(Exception):
    """Bad input or usage: one line that says what is wrong and what to do. Exit code 2."""


class RunError(Exception):
    """The work itself failed while it ran. Exit code 1."""


class Parser(argparse.ArgumentParser):
    """An ``ArgumentParser`` that takes ``--batch_size`` for ``--batch-size`` and complains in one line."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, **kwargs)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As in argparse, with the underscores in the names of flags read as dashes."""
        given = sys.argv[1:] if args is None else list(args)
        for i, argument in enumerate(given):
            if argument.startswith("--"):
                flag, equals, value = argument.partition("=")
                given[i] = flag.replace("_", "-") + equals + value
        return super().parse_known_args(given, namespace)

    def error(self, message: str) -> NoReturn:
        """One line on stderr in place of the whole usage; exit code 2."""
        self.exit(2, f"{self.prog}: error: {message} (--help lists every flag)\n")


def integer(low: int, high: int | None = None) -> Callable[[str], int]:
    """An argparse type: a whole number from ``low`` to ``high``, both included."""

    def parse(text: str) -> int:
        limits = f"at least {low}" if high is None else f"from {low} to {high}"
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if value < low or (high is not None and value > high):
            raise argparse.ArgumentTypeError(f"must be a whole number, {limits}, got {text!r}")
        return value

    return parse


def number(positive: bool = False, below: float = math.inf, at_most: float = math.inf) -> Callable[[str], float]:
    """An argparse type: a finite number, at least 0 (or above 0), below ``below`` and at most ``at_most``."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (value <= at_most and (0 < value < below or (value == 0 and not positive))):
            limits = "above 0" if positive else "at least 0"
            limits += "" if below == math.inf else f" and below {below:g}"
            limits += "" if at_most == math.inf else f" and at most {at_most:g}"
            raise argparse.ArgumentTypeError(f"must be a finite number, {limits}, got {text!r}")
        return value

    return parse


def exit_code(prog: str, work: Callable[[], None]) -> int:
    """Runs ``work``; a failure becomes one line on stderr.

    Returns:
      0 when all went well, 1 when the work failed, 2 for bad input.
    """
    try:
        work()
    except UsageError as error:
        print(f"{prog}: error: {_printable(error)}", file=sys.stderr)
        return 2
    except (RunError, OSError, MemoryError, RuntimeError) as error:  # torch is out of memory: RuntimeError
        lines = str(error).splitlines() or [type(error).__name__]
        print(f"{prog}: failed: {_printable(lines[0])}", file=sys.stderr)
        return 1
    return 0


def _printable(message: object) -> str:
    """One line of at most 4,000 characters without control characters: names come from other people's files."""
    line = "".join(c if c.isprintable() else "\ufffd" for c in " ".join(str(message).split()))
    return line if len(line) <= 4000 else line[:4000] + " …"


def run_as_command(main: Callable[[Sequence[str] | None], int]) -> NoReturn:
    """Ends the process with ``main``'s exit code, or with 128 + the signal's number when it is asked to stop.

    At a signal nothing is unwound: weights and metrics are whole after every epoch, and an exception at a random moment
    could be lost or turned into another one. A signal that is ignored stays ignored.
    """
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) not in (signal.SIG_IGN, None):
            signal.signal(number, _stop)
    sys.exit(main(None))


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
    with contextlib.suppress(OSError):
        os.write(2, f"\nstopped by {name}\n".encode())  # below the progress bar
    os._exit(128 + number)
