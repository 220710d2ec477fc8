"""A result: what was measured and on what, as JSON that holds no path and no name of a machine."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import pathlib
import subprocess
from collections.abc import Mapping
from typing import Any

from benchmarks.process import ROOT
from benchmarks.protocol import one_line
from jaxalex.errors import UsageError
from jaxalex.system import environment, files

# Environment variables that can change a speed.
_RECORDED = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "JAX_", "OMP_", "MKL_", "KMP_", "GOMP_", "TORCH_", "TORCHINDUCTOR_")


def describe(flags: Mapping[str, Any], gpu: str | None) -> dict[str, Any]:
    """The ``environment`` of a result.

    Args:
      flags: the command's arguments; those that name files are left out.
      gpu: the GPU's name, if one was measured.
    """
    versions = environment.versions()
    versions["torch"] = _version("torch")
    variables = {
        name: one_line(value)
        for name, value in sorted(os.environ.items())
        if name.startswith(_RECORDED) and "DIR" not in name and "PATH" not in name
    }
    kept = {k: v for k, v in flags.items() if v is not None and not isinstance(v, pathlib.Path) and "dir" not in k}
    return {
        "cpu": environment.cpu_name(),
        "cores": environment.cpu_count(),
        "gpu": gpu,
        "versions": versions,
        "flags": kept,
        "variables": variables,
        "git_revision": git_revision(),
        "date": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}",
        "load_average_before": round(os.getloadavg()[0], 2),
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def git_revision() -> str:
    """The checked-out revision, ``-dirty`` where files of the programs differ from it; "unknown" outside git."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", "jaxalex", "torch_ref", "benchmarks/*.py")
        return git("rev-parse", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def write(path: pathlib.Path, result: Mapping[str, Any]) -> None:
    """Writes a result as a whole, or leaves the file as it was.

    Raises:
      UsageError: if its folder is not there.
    """
    if not path.absolute().parent.is_dir():
        raise UsageError(f"{path}: there is no folder {path.parent}")
    text = json.dumps(result, indent=1) + "\n"
    if path.exists() and not path.is_file():  # /dev/stdout
        path.write_text(text, encoding="utf-8")
    else:
        files.write_whole(path, text)


def read(path: pathlib.Path, *lists: str) -> dict[str, Any]:
    """Reads a result.

    Args:
      path: the file.
      lists: the lists of objects that it must hold, by name.

    Raises:
      UsageError: naming the file, if it is not one.
    """
    result = files.read_json(path)
    parts = [result.get(name) for name in lists]
    if not isinstance(result.get("environment"), dict) or not all(
        isinstance(part, list) and all(isinstance(entry, dict) for entry in part) for part in parts
    ):
        raise UsageError(f"{path}: not a result of {'this benchmark' if lists else 'these benchmarks'}")
    return result
