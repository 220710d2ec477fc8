"""JAX's persistent compilation cache, in the user's cache folder, so that a second run need not compile again."""

from __future__ import annotations

import os
import pathlib
import sys

import jax

from jaxalex.errors import UsageError


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
      UsageError: the folder cannot be created or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder}: cannot be created ({error.strerror})") from error
    if not os.access(folder, os.W_OK):
        raise UsageError(f"{folder}: cannot be written to")
    jax.config.update("jax_compilation_cache_dir", str(folder.absolute()))
    # Dozens of small programs run before the first step; they are worth keeping, too.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def enable_for_command(switch: str) -> None:
    """Does what a command's ``--compilation-cache`` says.

    Args:
      switch: ``"on"`` uses JAX_COMPILATION_CACHE_DIR, else the default folder, and prints a note on stderr if that
        cannot be used; ``"off"`` turns the cache off; anything else is the folder to use.

    Raises:
      UsageError: a folder that was asked for by name cannot be used.
    """
    if switch == "off":
        jax.config.update("jax_enable_compilation_cache", False)
    elif switch != "on":
        enable(pathlib.Path(switch))
    elif not os.environ.get("JAX_COMPILATION_CACHE_DIR"):  # JAX reads this variable itself
        try:
            enable(default_folder())
        except (UsageError, RuntimeError) as error:  # RuntimeError: no home folder
            print(f"note: no compilation cache: {error}", file=sys.stderr)
