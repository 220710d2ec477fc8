"""What every command shares: flags in both spellings, one-line errors, exit codes."""

from __future__ import annotations

import argparse
import contextlib
import errno
import io
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from jaxalex.errors import RunError, Stopped, UsageError
from jaxalex.system import files, interrupt

_LONGEST = 4000  # characters of an error message that are shown
_FILES = 128  # that a process must be able to open: more than a training run ever has open at once


class Parser(argparse.ArgumentParser):
    """An `argparse.ArgumentParser` with one-line errors; ``--batch_size`` means ``--batch-size``."""

    def __init__(self, prog: str, description: str, epilog: str = "") -> None:
        note = "Flags may also be spelt with underscores (--batch_size)."
        super().__init__(
            prog=prog,
            description=description,
            epilog=f"{epilog}\n\n{note}\nExit codes: 0 done, 1 failed while running, 2 bad input or usage, "
            "129, 130 or 143 stopped by a signal.",
            allow_abbrev=False,
            formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=30, width=100),
        )

    def add_compilation_cache(self, group: Any = None) -> None:
        """Adds ``--compilation-cache``, for commands that compile something worth keeping."""
        (group or self).add_argument(
            "--compilation-cache",
            default="on",
            metavar="on|off|DIR",
            help="keep compiled programs for the next run: on, in your cache folder (default); off; or in DIR",
        )

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")

    def parse(self, argv: Sequence[str] | None) -> argparse.Namespace:
        """Parses ``argv``, by default the command line.

        Raises:
          UsageError: a flag or a value is unknown or missing.
        """
        args = sys.argv[1:] if argv is None else list(argv)
        end = args.index("--") if "--" in args else len(args)
        return self.parse_args([_dashed(a) if i < end else a for i, a in enumerate(args)])


def _dashed(argument: str) -> str:
    if not argument.startswith("--"):
        return argument
    flag, equals, value = argument.partition("=")
    return flag.replace("_", "-") + equals + value


def run(command: Callable[[], None]) -> int:
    """Runs a command and returns its exit code; an error is printed as one line on stderr."""
    _open_closed_streams()
    _print_anything()
    try:
        _refuse_few_files()
    except UsageError as error:
        return _fail(str(error), 2)
    with interrupt.ending_at_once(_say_signal):
        return _explained(command)


def end(code: int) -> NoReturn:
    """Ends the process with a code from `run`, at once.

    Python's own end takes a third of a second with JAX loaded: a signal that comes then finds no handler any more, and
    XLA's threads find their memory taken away.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            code = code or 1
    os._exit(code)


def _explained(command: Callable[[], None]) -> int:
    try:
        command()
        sys.stdout.flush()
        return 0
    except SystemExit as stop:  # --help
        return stop.code if isinstance(stop.code, int) else 0
    except UsageError as error:
        return _fail(str(error), 2)
    except RunError as error:
        return _fail(str(error), 1)
    except Stopped as stop:
        return _fail(str(stop), 128 + stop.signal_number)
    except BrokenPipeError:  # whoever read our output is gone (… | head)
        return 1
    except OSError as error:
        usage = error.errno == errno.ENAMETOOLONG
        return _fail(f"{error.filename or 'input/output'}: {error.strerror or error}", 2 if usage else 1)
    except FloatingPointError as error:  # under JAX_DEBUG_NANS
        return _fail(files.first_line(error), 1)
    except MemoryError:
        return _fail("out of memory: try a smaller --batch-size or --width", 1)
    except RuntimeError as error:
        # XLA has no public exception type of its own for this.
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return _fail("out of device memory: try a smaller --batch-size or --width", 1)


def _open_closed_streams() -> None:
    """What a command prints to a stream that it was started without (``>&-``) is dropped.

    Otherwise the next file that is opened would get the stream's number, and what libraries print with it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: this one
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 (for as long as the process lives)
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115


def _print_anything() -> None:
    """Makes print() escape characters that the terminal's encoding lacks, as in file or class names, not fail."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _refuse_few_files() -> None:
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if 0 <= limit < _FILES:
        raise UsageError(f"only {limit} files may be open at once here, {_FILES} are needed: ulimit -n {_FILES}")


def _say_signal(number: signal.Signals) -> None:
    """As `_fail` says it; straight to the file, because the main thread may be holding `sys.stderr`."""
    after_bar = "\n" if os.isatty(2) else ""
    os.write(2, f"{after_bar}error: stopped by {interrupt.describe(number)}\n".encode())


def _fail(message: str, code: int) -> int:
    """Prints one line on stderr, safe even if it quotes a hostile file: no control characters, limited in length."""
    line = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(message.split()))
    if len(line) > _LONGEST:
        line = f"{line[:_LONGEST]} … ({len(line):,} characters)"
    with contextlib.suppress(OSError):  # nobody reads it any more
        print("error: " + line, file=sys.stderr, flush=True)
    return code
