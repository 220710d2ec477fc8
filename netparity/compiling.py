"""How XLA is told to compile in little time to a slower program, as far as the version at hand can be told."""

from __future__ import annotations

import functools
from typing import Any

import jax

_QUICK: dict[str, Any] = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}


@functools.cache
def quick_options() -> dict[str, Any]:
    """``compiler_options`` for the CPU that compile in a fifth of the time; jaxlib 0.11 has one of the two no more."""
    lowered = jax.jit(lambda: 0).lower()
    known: dict[str, Any] = {}
    for name, value in _QUICK.items():
        try:
            lowered.compile(compiler_options={name: value})
        except jax.errors.JaxRuntimeError:  # no such compile option
            continue
        known[name] = value
    return known
