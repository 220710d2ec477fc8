"""JAX's persistent compilation cache, in the user's cache folder, so that a second run need not compile again.

JAX writes an entry straight under its name, so that a process that is killed may leave half of one, and never replaces
an entry that exists: it warns of a damaged one at every run. Here a damaged entry is removed, and written anew.
"""

from __future__ import annotations

import os
import pathlib
import re
import sys
import warnings
from typing import TextIO

import jax

from jaxalex.errors import UsageError
from jaxalex.system import settings

# How JAX begins the warnings about an entry that it cannot read or write. It names the program, not the entry.
_FAILED = re.compile(r"Error (reading|writing) persistent compilation cache entry for '([^']*)': (.*)", re.DOTALL)


def default_folder() -> pathlib.Path:
    """``jaxalex/xla`` in the user's cache folder: XDG_CACHE_HOME, else ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (pathlib.Path(base) if base else pathlib.Path("~/.cache").expanduser()) / "jaxalex" / "xla"


def enable(folder: pathlib.Path) -> None:
    """Makes this process keep compiled programs in a folder. Call it before anything is compiled.

    Args:
      folder: created if it does not exist. JAX itself makes sure that a program is used only with the versions, flags
        and device it was compiled for.

    Raises:
      UsageError: the folder cannot be created, read or written to.
    """
    _check(folder)
    jax.config.update("jax_compilation_cache_dir", str(folder.absolute()))
    # Dozens of small programs run before the first step; they are worth keeping, too.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    _heal(folder)


def enable_for_command(switch: str) -> None:
    """Does what a command's ``--compilation-cache`` says.

    Args:
      switch: ``"on"`` uses JAX_COMPILATION_CACHE_DIR, else the default folder, and prints a note on stderr if the
        latter cannot be used; ``"off"`` turns the cache off; anything else is the folder to use.

    Raises:
      UsageError: a folder that was asked for by name cannot be used.
    """
    named = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if switch == "off":
        jax.config.update("jax_enable_compilation_cache", False)
    elif switch != "on":
        enable(pathlib.Path(switch))
    elif not named:
        try:
            enable(default_folder())
        except (UsageError, RuntimeError) as error:  # RuntimeError: no home folder
            print(f"note: no compilation cache: {error}", file=sys.stderr)
    elif "://" not in named and settings.get("jax_enable_compilation_cache"):  # JAX reads this variable itself
        try:
            _check(pathlib.Path(named))
        except UsageError as error:
            raise UsageError(f"JAX_COMPILATION_CACHE_DIR: {error}") from error
        _heal(pathlib.Path(named))


def _check(folder: pathlib.Path) -> None:
    """Makes a folder that JAX can use as its cache; reading an entry that is a pipe would never end.

    Raises:
      UsageError: it cannot be created, read or written to, or something in it is no file.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise UsageError(f"{folder}: cannot be created ({getattr(error, 'strerror', None) or error})") from error
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise UsageError(f"{folder}: cannot be written to")
    with os.scandir(folder) as entries:
        strange = [entry.name for entry in entries if entry.name.endswith(_SUFFIXES) and not _is_file(entry)]
    if strange:
        raise UsageError(f"{folder / min(strange)}: is not a regular file: remove it, or use another folder")


_SUFFIXES = ("-cache", "-atime", ".lockfile")  # of the files that JAX keeps there


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # links in a circle
        return False


def _heal(folder: pathlib.Path) -> None:
    """From now on JAX's warnings about entries in ``folder`` remove these entries, and all together print one note.

    The warning comes before JAX compiles the program anew and writes it, or after it failed to write all of it.
    """
    others, told = warnings.showwarning, False

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        nonlocal told
        failed = _FAILED.match(str(message))
        if not failed:
            return others(message, category, filename, lineno, file, line)
        doing, program, reason = failed.groups()
        _remove(folder, program)
        if not told:
            told = True
            what = "damaged, removed and compiled anew" if doing == "reading" else "not kept"
            print(f"note: {folder}: compiled programs were {what} ({' '.join(reason.split())})", file=sys.stderr)
        return None

    warnings.showwarning = show
    warnings.filterwarnings("always", message="Error .* persistent compilation cache entry")


def _remove(folder: pathlib.Path, program: str) -> None:
    """Removes the entries of all programs of this name: which of them is damaged JAX does not say."""
    entry = re.compile(re.escape(program) + "-[0-9a-f]+-(cache|atime)")
    try:
        for path in folder.iterdir():
            if entry.fullmatch(path.name):
                path.unlink(missing_ok=True)
    except OSError:  # then it is compiled every time
        pass
