"""Chooses the device that a command runs on."""

from __future__ import annotations

import contextlib
import logging
import pathlib
import sys
from collections.abc import Iterator

import jax

from jaxalex.errors import UsageError


def choose_device(name: str, precision: str) -> jax.Device:
    """The device with this name, checked to support the precision.

    Args:
      name: "auto" (a GPU if there is one), "cpu" or "gpu".
      precision: "float32", "tf32" or "bfloat16".

    Raises:
      UsageError: there is no such device, or it lacks TF32. Another device is never chosen silently.
    """
    with _plugin_failures() as failures:
        cpu = jax.devices("cpu")[0]  # the first call makes JAX look for devices of every kind
    gpus = [] if name == "cpu" else _gpus()
    reason = f" ({'; '.join(failures)})" if failures else ""
    if name == "gpu" and not gpus:
        raise UsageError(
            f"--device gpu: JAX finds no GPU here{reason}; "
            "install jax[cuda13] or jax[cuda] for an NVIDIA GPU, or use --device cpu"
        )
    if name == "auto" and failures and pathlib.Path("/dev/nvidiactl").exists():
        print(f"note: there is an NVIDIA GPU, but JAX cannot use it{reason}", file=sys.stderr)
    device = gpus[0] if gpus else cpu
    if precision == "tf32" and float(getattr(device, "compute_capability", 0) or 0) < 8.0:
        raise UsageError(
            f"--precision tf32: {device.device_kind} has no TF32 (an NVIDIA GPU of the Ampere generation or later "
            "has); use float32"
        )
    return device


def _gpus() -> list[jax.Device]:
    try:
        return jax.devices("gpu")
    except RuntimeError:  # no GPU backend
        return []


@contextlib.contextmanager
def _plugin_failures() -> Iterator[list[str]]:
    """Collects the reasons why JAX's GPU plugins do not start, instead of letting each log a traceback.

    `make setup` installs the plugins on machines without a GPU, too, where their failure to start is no error.
    """
    reasons: list[str] = []

    def keep(record: logging.LogRecord) -> bool:
        if record.exc_info and "plugin" in record.getMessage():
            reasons.append(str(record.exc_info[1]).strip().splitlines()[0])
            return False
        return True

    logger = logging.getLogger("jax._src.xla_bridge")
    logger.addFilter(keep)
    try:
        yield reasons
    finally:
        logger.removeFilter(keep)
