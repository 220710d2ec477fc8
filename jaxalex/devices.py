"""Choosing the device that a command runs on."""

from __future__ import annotations

import jax

from jaxalex.errors import UsageError


def choose_device(name: str, precision: str) -> jax.Device:
    """The device of a name, able to compute in a precision.

    Args:
      name: "auto" (a GPU if there is one), "cpu" or "gpu".
      precision: "float32", "tf32" or "bfloat16".

    Raises:
      UsageError: if there is no such device or it has no TF32; never a silent other choice.
    """
    gpus = [] if name == "cpu" else _gpus()
    if name == "gpu" and not gpus:
        raise UsageError(
            "--device gpu: JAX finds no GPU here; install jax[cuda13] or jax[cuda] for one, or use --device cpu"
        )
    device = gpus[0] if gpus else jax.devices("cpu")[0]
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
