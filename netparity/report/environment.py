"""What a report must stand beside: versions, processor, devices and precision modes of both frameworks."""

from __future__ import annotations

import importlib.metadata
import os
import pathlib
import platform
import re
from typing import Any

_PACKAGES = ("jaxalex", "jax", "jaxlib", "flax", "optax", "numpy")  # the first is the one that netparity comes in


def full_float32() -> None:
    """Keeps PyTorch from rounding float32 to TF32 on a GPU, in the whole process.

    A JAX network asks for the same with ``precision="highest"``.
    """
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def environment(torch_device: str = "cpu") -> dict[str, Any]:
    """Versions, processor, devices and precision modes of both sides.

    Args:
      torch_device: where PyTorch computed; JAX computed on its default device.

    Returns:
      what stands under ``environment`` in ``report.json``.
    """
    import jax.numpy as jnp
    import torch

    device = next(iter(jnp.zeros(()).devices()))
    tf32 = f"allow_tf32: matmul {torch.backends.cuda.matmul.allow_tf32}, cudnn {torch.backends.cudnn.allow_tf32}"
    cpu, cores = _cpu(), _cores()
    return {
        "versions": {"python": platform.python_version(), **_versions(), "torch": torch.__version__},
        "devices": {
            "jax": f"cpu: {cpu}, {cores} cores"
            if device.platform == "cpu"
            else f"{device.platform}: {device.device_kind}",
            "torch": "cpu" if torch_device == "cpu" else f"gpu: {torch.cuda.get_device_name(torch_device)}",
        },
        "cpu": cpu,
        "cores": cores,
        "precision": {"jax": "lax.Precision.HIGHEST", "torch": f"float32; {tf32}"},
    }


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:  # run from a checkout that is not installed
            found[package] = "not installed"
    return found


def _cores() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu() -> str:
    """The processor's model and vector instructions, as far as the system tells them."""
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    match = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    name = match.group(1).strip() if match else platform.processor() or platform.machine()
    return name + _vectors(text)


def _vectors(cpuinfo: str) -> str:
    """What rounding and speed depend on besides the model's name.

    >>> _vectors("flags : fpu sse2 avx avx2 avx512f avx512_bf16"), _vectors("flags : fpu sse2 avx avx2"), _vectors("")
    (' with AVX-512', ' with AVX2', '')
    """
    flags = set(cpuinfo.split())
    return " with AVX-512" if "avx512f" in flags else " with AVX2" if "avx2" in flags else ""
