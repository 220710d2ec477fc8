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
    files.write_whole(path, json.dumps(result, indent=1) + "\n")


def read(path: pathlib.Path) -> dict[str, Any]:
    """Reads a result.

    Raises:
      UsageError: naming the file, if it is not one.
    """
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    except json.JSONDecodeError as error:
        raise UsageError(f"{path}: not JSON ({error})") from error
    if not isinstance(result, dict) or "environment" not in result:
        raise UsageError(f"{path}: not a result of these benchmarks")
    return result
