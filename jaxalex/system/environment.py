"""What must be reported beside any result: versions, variables, processor or GPU, number of cores."""

from __future__ import annotations

import importlib.metadata
import os
import pathlib
import platform
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import jax

_PACKAGES = ("jaxalex", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
_VARIABLES = ("XLA_FLAGS", "NVIDIA_TF32_OVERRIDE", "CUBLAS_WORKSPACE_CONFIG")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that affect a result, by name."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:  # run from a checkout without installing it
            found[package] = "not installed"
    return found


def variables() -> dict[str, str]:
    """The environment variables, of those that are set, that may change a result's last bits and are not JAX's own."""
    return {name: os.environ[name] for name in _VARIABLES if os.environ.get(name)}


def cpu_count() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_name() -> str:
    """The processor's model name, as far as the system tells."""
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    match = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return match.group(1).strip() if match else platform.processor() or platform.machine()


def describe_device(device: jax.Device) -> str:
    """A device for people: ``"cpu: AMD EPYC, 2 cores"`` or ``"gpu: NVIDIA H200"``."""
    if device.platform == "cpu":
        return f"cpu: {cpu_name()}, {cpu_count()} cores"
    return f"{device.platform}: {device.device_kind}"
