"""Chooses the device that a command runs on."""

from __future__ import annotations

import contextlib
import logging
import os
import pathlib
import sys
from collections.abc import Iterator

import jax

from jaxalex.errors import UsageError
from jaxalex.system import files, settings


def choose_device(name: str, precision: str) -> jax.Device:
    """The device with this name, checked to support the precision.

    Args:
      name: "auto" (a GPU if there is one), "cpu" or "gpu".
      precision: "float32", "tf32" or "bfloat16".

    Raises:
      UsageError: there is no such device, JAX's own settings leave it out, or it lacks TF32. Another device is never
        chosen silently.
    """
    with _plugin_failures() as failures:
        try:
            jax.devices()  # the first call makes JAX look for devices of every kind that it may use
        except (RuntimeError, AssertionError) as error:  # the latter where JAX_PLATFORMS names only what is not here
            why = "; ".join(failures) or (str(error) and files.first_line(error)) or "there is no such device"
            raise UsageError(f"JAX cannot start{_variables()}: {why}") from error
    default = settings.get("jax_default_device")
    if isinstance(default, str) and not _of_kind(default):
        raise UsageError(f"JAX_DEFAULT_DEVICE={default}: JAX finds no such device here: unset it")
    cpus, gpus = ([] if name == other else _of_kind(kind) for kind, other in (("cpu", "gpu"), ("gpu", "cpu")))
    reason = f" ({'; '.join(failures)})" if failures else _variables()
    if name == "gpu" and not gpus:
        raise UsageError(
            f"--device gpu: JAX finds no GPU here{reason}; "
            "install jax[cuda13] or jax[cuda] for an NVIDIA GPU, or use --device cpu"
        )
    if name == "auto" and failures and pathlib.Path("/dev/nvidiactl").exists():
        print(f"note: there is an NVIDIA GPU, but JAX cannot use it{reason}", file=sys.stderr)
    if not (cpus or gpus):
        raise UsageError(f"--device {name}: JAX may use no such device here{_variables()}")
    device = (gpus or cpus)[0]
    if precision == "tf32" and float(getattr(device, "compute_capability", 0) or 0) < 8.0:
        raise UsageError(
            f"--precision tf32: {device.device_kind} has no TF32 (an NVIDIA GPU of the Ampere generation or later "
            "has); use float32"
        )
    return device


def _of_kind(kind: str) -> list[jax.Device]:
    try:
        return jax.devices(kind)
    except RuntimeError:  # no such backend, or JAX_PLATFORMS leaves it out
        return []


def _variables() -> str:
    """The environment variables that decide which devices JAX may use, as far as they are set, in brackets."""
    names = ("JAX_PLATFORMS", "JAX_PLATFORM_NAME", "JAX_NUM_CPU_DEVICES", "CUDA_VISIBLE_DEVICES")
    found = [f"{name}={os.environ[name]}" for name in names if name in os.environ]
    return f" (under {', '.join(found)})" if found else ""


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
