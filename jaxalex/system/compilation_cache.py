"""JAX's persistent compilation cache, in the user's cache folder: a second run need not compile again."""

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
    """Keeps compiled programs in a folder, from here on in this process. Call it before anything is compiled.

    Args:
      folder: made if it is not there. JAX itself sees to it that a program is used only where versions, flags and
        device are those it was compiled with.

    Raises:
      UsageError: if the folder cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder}: cannot be made ({error.strerror})") from error
    if not os.access(folder, os.W_OK):
        raise UsageError(f"{folder}: cannot be written to")
    jax.config.update("jax_compilation_cache_dir", str(folder.absolute()))
    # Dozens of small programs come before the first step; they are worth keeping, too.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def enable_for_command(switch: str) -> None:
    """What a command does with its ``--compilation-cache``.

    Args:
      switch: ``"on"``: the default folder, or that of JAX_COMPILATION_CACHE_DIR, and a note on stderr where it cannot
        be used; ``"off"``: nothing; anything else: that folder.

    Raises:
      UsageError: if a folder that was asked for by name cannot be used.
    """
    if switch == "off":
        jax.config.update("jax_enable_compilation_cache", False)
    elif switch != "on":
        enable(pathlib.Path(switch))
    elif not os.environ.get("JAX_COMPILATION_CACHE_DIR"):  # which JAX obeys by itself
        try:
            enable(default_folder())
        except (UsageError, RuntimeError) as error:  # RuntimeError: no home folder
            print(f"note: no compilation cache: {error}", file=sys.stderr)
