"""What every command shares: flags in both spellings, one-line errors, exit codes."""

from __future__ import annotations

import argparse
import errno
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from jaxalex.errors import RunError, Stopped, UsageError

_LONGEST = 4000  # characters of an error message that are shown


class _Terminated(BaseException):
    """SIGTERM as an exception, so that files are closed on the way out."""


class Parser(argparse.ArgumentParser):
    """An `argparse.ArgumentParser` with one-line errors; ``--batch_size`` means ``--batch-size``."""

    def __init__(self, prog: str, description: str, epilog: str = "") -> None:
        note = "Flags may also be spelt with underscores (--batch_size)."
        super().__init__(
            prog=prog,
            description=description,
            epilog=f"{epilog}\n\n{note}\nExit codes: 0 done, 1 failed while running, 2 bad input or usage, "
            "130 or 143 stopped by a signal.",
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


@contextmanager
def _sigterm_as_exception() -> Iterator[None]:
    def handler(*_: object) -> NoReturn:
        raise _Terminated

    try:
        before = signal.signal(signal.SIGTERM, handler)
    except ValueError:  # not the main thread: leave the signal alone
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def run(command: Callable[[], None]) -> int:
    """Runs a command and returns its exit code; an error is printed as one line on stderr."""
    try:
        _print_anything()
        with _sigterm_as_exception():
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
    except KeyboardInterrupt:
        return _fail("stopped by Ctrl-C", 130)
    except _Terminated:
        return _fail("stopped by SIGTERM", 143)
    except BrokenPipeError:  # whoever read our output is gone (… | head)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        usage = error.errno == errno.ENAMETOOLONG
        return _fail(f"{error.filename or 'input/output'}: {error.strerror or error}", 2 if usage else 1)
    except FloatingPointError as error:  # under JAX_DEBUG_NANS
        return _fail(str(error).strip().partition("\n")[0], 1)
    except MemoryError:
        return _fail("out of memory: try a smaller --batch-size", 1)
    except RuntimeError as error:
        # XLA has no public exception type of its own for this.
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return _fail("out of device memory: try a smaller --batch-size", 1)


def _print_anything() -> None:
    """Makes print() escape characters that the terminal's encoding lacks, as in file or class names, not fail."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _fail(message: str, code: int) -> int:
    """Prints one line on stderr, safe even if it quotes a hostile file: no control characters, limited in length."""
    line = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(message.split()))
    if len(line) > _LONGEST:
        line = f"{line[:_LONGEST]} … ({len(line):,} characters)"
    print("error: " + line, file=sys.stderr)
    return code
