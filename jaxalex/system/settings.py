"""JAX's settings, which environment variables change: those that decide numbers, and those that nothing runs under."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import Any

from jaxalex.errors import UsageError

# The settings that can change a result on a CPU or a GPU, with JAX's defaults. A checkpoint without a record of them
# was written under the defaults.
DEFAULTS: dict[str, Any] = {
    "jax_enable_x64": False,
    "jax_default_matmul_precision": None,
    "jax_default_prng_impl": "threefry2x32",
    "jax_threefry_partitionable": True,
    "jax_random_seed_offset": 0,
    "jax_use_direct_linearize": True,
    "jax_softmax_custom_jvp": False,
    "jax_compiler_enable_remat_pass": True,
    "jax_exec_time_optimization_effort": 0.0,
    "jax_memory_fitting_effort": 0.0,
    "jax_optimization_level": "UNKNOWN",
    "jax_memory_fitting_level": "O2",
}

# Settings by their names: the values under which nothing runs, and why.
_UNUSABLE: dict[str, tuple[tuple[Any, ...], str]] = {
    "jax_numpy_dtype_promotion": (("strict",), "the arithmetic here relies on JAX's standard promotion"),
    "jax_no_tracing": ((True,), "nothing could be compiled"),
    "jax_no_execution": ((True,), "nothing could be computed"),
    "jax_transfer_guard": (
        ("disallow", "disallow_explicit"),
        "data, indices and metrics are moved implicitly (log can be used)",
    ),
}


def start_jax() -> None:
    """Imports JAX, for the first time, and checks that its environment variables make sense. Every command's first act.

    Raises:
      UsageError: JAX or XLA would refuse a variable, or nothing here runs under it; it is named.
    """
    if os.environ.get("XLA_FLAGS"):
        _check_xla_flags()
    try:
        import jax  # noqa: F401
    except ValueError as error:  # each of JAX's settings checks its variable while JAX is imported
        raise UsageError(f"JAX refuses an environment variable: {error}") from error
    for name, (values, why) in _UNUSABLE.items():
        value = get(name)
        if value in values:
            raise UsageError(f"{name.upper()}={_shown(value)} cannot be used: {why}: unset it")


def get(name: str) -> Any:
    """A setting of JAX as a JSON value; None where this version of JAX does not have it."""
    import jax

    value = getattr(jax.config, name, None)
    return getattr(value, "value", value)  # some are enumerations


def current() -> dict[str, Any]:
    """The settings that decide numbers, by name, as JSON values; without those that this version of JAX lacks."""
    import jax

    return {name: get(name) for name in DEFAULTS if hasattr(jax.config, name)}


def differences(then: Any, now: dict[str, Any]) -> str:
    """Every setting in which a run differs from what was recorded of it, and what to do; "" where there is none.

    Args:
      then: what `current` gave when the run was recorded; None stands for JAX's defaults.
      now: what it gives now. Settings that only one of the two versions of JAX has are not compared.

    >>> differences(None, {"jax_enable_x64": True})
    'jax_enable_x64 False then, True now: unset JAX_ENABLE_X64'
    >>> differences({"jax_enable_x64": True}, {"jax_enable_x64": False})
    'jax_enable_x64 True then, False now: set JAX_ENABLE_X64=1'
    """
    then = DEFAULTS if then is None else then
    if not isinstance(then, dict):
        return f"{then!r} then"
    return "; ".join(
        f"{name} {then[name]!r} then, {now[name]!r} now: {_how_to_set(name, then[name])}"
        for name in now
        if name in then and then[name] != now[name]
    )


def _how_to_set(name: str, value: Any) -> str:
    variable = name.upper()
    return f"unset {variable}" if value == DEFAULTS.get(name) else f"set {variable}={_shown(value)}"


def _shown(value: Any) -> str:
    """A value as an environment variable has it."""
    return str(int(value) if isinstance(value, bool) else value)


def _check_xla_flags() -> None:
    """XLA ends the process at a flag that it does not know, so a process of its own tries them first (0.2 s)."""
    program = "from jaxlib import xla_client; xla_client.CompileOptions()"
    tried = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, errors="replace")
    # "F1125 02:35:49.698826   25535 parse_flags_from_env.cc:234] Unknown flag in XLA_FLAGS: --nonsense"
    reason = re.search(r"^[EF]\d{4} [^]]*\] (.*)$", tried.stderr, re.MULTILINE)
    if tried.returncode and reason:
        raise UsageError(f"XLA refuses the environment variable XLA_FLAGS={os.environ['XLA_FLAGS']}: {reason[1]}")
