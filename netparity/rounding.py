"""How far rounding in float32 moves a computation, found by simulating it in float64.

Every result of every equation is moved by a random amount of the size that float32 would round it by, so what comes
out has gone through the computation's own cancellations: a variance as a mean of squares less the square of a mean
loses as many digits here as it does in float32. What float32 holds exactly is not moved.
Source: D. S. Parker, "Monte Carlo Arithmetic", UCLA CSD-970002, 1997. Sums of n terms are moved by what the
probabilistic analysis of `netparity.bounds` gives them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from netparity import equations, marks
from netparity.bounds import U

# Errors in units of roundoff. What is not named rounds once.
_EXACT = frozenset(
    [
        *("neg", "abs", "sign", "max", "min", "clamp", "select_n", "floor", "ceil", "round", "sort", "stop_gradient"),
        *("reshape", "squeeze", "expand_dims", "transpose", "rev", "broadcast_in_dim", "pad", "concatenate", "copy"),
        *("slice", "dynamic_slice", "dynamic_update_slice", "gather", "convert_element_type", "bitcast_convert_type"),
        *("reduce_max", "reduce_min", "reduce_window_max", "argmax", "optimization_barrier", "copy_p"),
        *marks.PRIMITIVES,
    ]
)
_FUNCTIONS = frozenset(  # vectorised approximations of both libraries: a few units in the last place
    [
        *("exp", "exp2", "expm1", "log", "log1p", "tanh", "logistic", "erf", "erfc", "erf_inv", "lgamma"),
        *("sin", "cos", "tan", "atan2", "rsqrt", "cbrt", "pow"),
    ]
)
_PRODUCTS = ("dot_general", "conv_general_dilated")
_SUMS = (*_PRODUCTS, "cumsum", "reduce_window_sum", "scatter-add", "scatter_add")
_FUNCTION_ERROR = 4.0
_Seed = int | jax.Array
_INLINED = ("jaxpr", "call_jaxpr", "fun_jaxpr")


def simulate(jaxpr: core.ClosedJaxpr, args: Sequence[Any], seed: _Seed = 0) -> list[Any]:
    """Evaluates a computation in float64 with the rounding errors of float32.

    Args:
      jaxpr: what to compute, traced in float64.
      args: its arguments, which are not moved.
      seed: of the errors.

    Returns:
      its results.
    """
    return _evaluate(jaxpr.jaxpr, jaxpr.consts, args, seed)


def _evaluate(jaxpr: core.Jaxpr, consts: Sequence[Any], args: Sequence[Any], seed: _Seed) -> list[Any]:
    env: dict[Any, Any] = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))

    def read(var: Any) -> Any:
        return var.val if isinstance(var, core.Literal) else env[var]

    for number, equation in enumerate(jaxpr.eqns):
        operands = [read(var) for var in equation.invars]
        own = _hash(seed + (number + 1 if isinstance(seed, int) else jnp.uint32(number + 1)))
        if equation.primitive.name == "scan":
            env.update(zip(equation.outvars, _scanned(equation, operands, own), strict=True))
            continue
        inner = _inner(equation)
        if inner is not None:
            env.update(zip(equation.outvars, _evaluate(inner.jaxpr, inner.consts, operands, own), strict=True))
            continue
        for var, result in equations.evaluate(jaxpr, [equation], read).items():
            env[var] = _moved(equation, operands, result, own)
    return [read(var) for var in jaxpr.outvars]


def _scanned(scan: Any, operands: Sequence[Any], seed: _Seed) -> list[Any]:
    """The results of a loop, whose every turn errs anew."""
    params, (first, carried) = scan.params, equations.scan_counts(scan)
    body, consts, carry = params["jaxpr"], operands[:first], operands[first : first + carried]
    turns = jnp.arange(params["length"], dtype=jnp.uint32)

    def turn(carry: Sequence[Any], xs: tuple[Any, Sequence[Any]]) -> tuple[list[Any], list[Any]]:
        number, own = xs
        out = _evaluate(body.jaxpr, body.consts, [*consts, *carry, *own], _hash(number ^ jnp.uint32(seed)))
        return out[: len(carry)], out[len(carry) :]

    xs = (turns, list(operands[first + carried :]))
    after, stacked = jax.lax.scan(turn, list(carry), xs, params["length"], params["reverse"])
    return [*after, *stacked]


def _inner(equation: Any) -> core.ClosedJaxpr | None:
    """The computation that an equation merely calls, with the equation's own arguments."""
    if equation.primitive.name in ("scan", "while", "cond"):
        return None
    found = (equations.closed(equation.params.get(name)) for name in _INLINED)
    return next((inner for inner in found if inner is not None), None)


def _moved(equation: Any, operands: Sequence[Any], result: Any, seed: _Seed) -> Any:
    name = equation.primitive.name
    if name in _EXACT or not jnp.issubdtype(result.dtype, jnp.floating):
        return result
    key = jnp.uint32(seed)
    if name == "reduce_sum":
        n = max(1.0, operands[0].size / max(1, result.size))
        return _moved_sum(result, operands[0], key, math.sqrt(n), tuple(equation.params["axes"]))
    if name in _SUMS:
        of = operands[0].size
        if name in _PRODUCTS:  # [m, n] times [n, k] has m * k results
            of = math.sqrt(of * operands[1].size * max(1, result.size))
        return _moved_product(result, key, math.sqrt(max(1.0, of / max(1, result.size))))
    if name in _FUNCTIONS:
        return _moved_function(result, key)
    return _moved_once(result, key)


# Compiled functions of their own, so that each is traced once for a shape and not behind every operation.
@functools.partial(jax.jit, static_argnums=(3, 4))
def _moved_sum(result: jax.Array, terms: jax.Array, key: jax.Array, root: float, axes: tuple[int, ...]) -> jax.Array:
    scale = jnp.maximum(jnp.sqrt(jnp.square(terms).sum(axes)), jnp.abs(result))
    return result + root * _noise(key, result) * scale


@functools.partial(jax.jit, static_argnums=2)
def _moved_product(result: jax.Array, key: jax.Array, root: float) -> jax.Array:
    return result + root * _noise(key, result) * jnp.abs(result).max()


@jax.jit
def _moved_function(result: jax.Array, key: jax.Array) -> jax.Array:
    return result * (1 + _FUNCTION_ERROR * _noise(key, result))


@jax.jit
def _moved_once(result: jax.Array, key: jax.Array) -> jax.Array:
    held = result.astype(jnp.float32).astype(result.dtype) == result
    return jnp.where(held, result, result * (1 + _noise(key, result)))


def _noise(key: jax.Array, like: jax.Array) -> jax.Array:
    """Random numbers of float32's unit roundoff, nearly normal: the sums of the four bytes of a hash.

    JAX's own generators would do, and take ten times as long to compile where they stand behind every operation.
    """
    places = jnp.arange(like.size, dtype=jnp.uint32).reshape(like.shape)
    bits = _hash(places * jnp.uint32(0x9E3779B9) ^ key)
    total = sum(((bits >> shift) & 0xFF).astype(jnp.float32) for shift in (0, 8, 16, 24))
    return (U * (total - 510.0) / math.sqrt(4 * (256**2 - 1) / 12)).astype(like.dtype)


def _hash(x: Any) -> Any:
    """Scrambles 32 bits. Source: C. Wellons, "Prospecting for Hash Functions", 2018 (lowbias32)."""
    if isinstance(x, int):
        x = ((x ^ (x >> 16)) * 0x7FEB352D) & 0xFFFFFFFF
        x = ((x ^ (x >> 15)) * 0x846CA68B) & 0xFFFFFFFF
    else:
        x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
        x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)
