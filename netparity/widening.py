"""Computes a float64 network's float32 steps in float64, too.

Some steps are computed in float32 whatever they are fed: the softmax of ``jax.nn.dot_product_attention``, or of a
network's own ``scores.astype(jnp.float32)``. Of a float32 network they are a part like any other, but in float64 they
would hide every difference that is smaller than float32's rounding. Lower precisions stay as they are: they are a
choice in float32, too.
Source: "Writing custom Jaxpr interpreters in JAX", JAX documentation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from netparity import equations

_NARROW, _WIDE = np.dtype(np.float32), np.dtype(np.float64)
_WITH_GRADIENTS = ("custom_jvp_call", "custom_vjp_call")
_OF_BITS = ("bitcast_convert_type", "reduce_precision")  # they depend on how float32 is stored, as its random draws do


def widened(jaxpr: core.ClosedJaxpr) -> core.ClosedJaxpr:
    """The same computation with everything that was float32 in float64; as it is if no argument is float64.

    Calls within which something is float32 are inlined. Gradients that a function defines for itself are kept, in
    reverse mode.
    """
    if not any(_dtype(aval) == _WIDE for aval in jaxpr.in_avals) or not _is_narrow(jaxpr.jaxpr):
        return jaxpr
    return jax.make_jaxpr(lambda *args: _evaluated(jaxpr, args))(*jaxpr.in_avals)


def _evaluated(closed: core.ClosedJaxpr, args: Sequence[Any]) -> list[Any]:
    jaxpr = closed.jaxpr
    env = dict(zip([*jaxpr.constvars, *jaxpr.invars], map(_wide, [*closed.consts, *args]), strict=True))

    def read(var: Any) -> Any:
        return _wide(var.val) if isinstance(var, core.Literal) else env[var]

    for equation in jaxpr.eqns:
        if not _has_narrow(equation):
            env.update(equations.evaluate(jaxpr, [equation], read))
            continue
        operands = [read(var) for var in equation.invars]
        env.update(zip(equation.outvars, map(_wide, _results(jaxpr, equation, operands)), strict=True))
    return [read(var) for var in jaxpr.outvars]


def _results(jaxpr: core.Jaxpr, equation: Any, operands: Sequence[Any]) -> Sequence[Any]:
    """What an equation gives that has something in float32."""
    name, params = equation.primitive.name, equation.params
    inner = equations.closed(params.get(equations.CALLS.get(name, "")))
    if inner is not None:
        return _evaluated(inner, operands)
    if name in _WITH_GRADIENTS:
        return _with_gradient(jaxpr, equation, operands)
    if name in _OF_BITS:
        own = [x.astype(var.aval.dtype) for var, x in zip(equation.invars, operands, strict=True)]
        return _alone(jaxpr, equation)(*own)
    results = equation.primitive.bind(*operands, **{key: _widened_param(value) for key, value in params.items()})
    return results if equation.primitive.multiple_results else [results]


def _with_gradient(jaxpr: core.Jaxpr, equation: Any, operands: Sequence[Any]) -> list[Any]:
    """A call that defines its gradient: the gradient that it has in float32, widened."""
    body = equations.closed(equation.params["call_jaxpr"])
    assert body is not None
    alone = _alone(jaxpr, equation)
    moving = [place for place, var in enumerate(equation.invars) if _is_floating(var)]
    given = [place for place, var in enumerate(equation.outvars) if _is_floating(var) and not _is_dropped(var)]

    def pull_back(args: Sequence[Any], cotangents: Sequence[Any]) -> tuple[Any, ...]:
        def of(*some: Any) -> list[Any]:
            moved = dict(zip(moving, some, strict=True))
            results = alone(*(moved.get(place, value) for place, value in enumerate(args)))
            return [results[place] for place in given]

        return jax.vjp(of, *(args[place] for place in moving))[1](list(cotangents))

    @jax.custom_vjp
    def call(*args: Any) -> list[Any]:
        return _evaluated(body, args)

    def forward(*args: Any) -> tuple[list[Any], tuple[Any, ...]]:
        return _evaluated(body, args), args

    def backward(args: tuple[Any, ...], cotangents: Sequence[Any]) -> tuple[Any, ...]:
        outputs = [equation.outvars[place] for place in given]
        traced = jax.make_jaxpr(pull_back)(*([_shape(var) for var in side] for side in (equation.invars, outputs)))
        found = iter(_evaluated(traced, [*args, *(cotangents[place] for place in given)]))
        return tuple(next(found) if place in moving else None for place in range(len(args)))

    call.defvjp(forward, backward)
    return call(*operands)


def _alone(jaxpr: core.Jaxpr, equation: Any) -> Callable[..., list[Any]]:
    """One equation as a function of its operands, in its own dtypes; what is dropped is None."""

    def alone(*operands: Any) -> list[Any]:
        values = {
            var: value
            for var, value in zip(equation.invars, operands, strict=True)
            if not isinstance(var, core.Literal)
        }
        found = equations.evaluate(jaxpr, [equation], values.__getitem__)
        return [None if _is_dropped(var) else found[var] for var in equation.outvars]

    return alone


def _widened_param(value: Any) -> Any:
    """A parameter of an operation: a dtype, or the body of a loop, a branch, the update of a scatter …"""
    if isinstance(value, np.dtype):
        return _WIDE if value == _NARROW else value
    if isinstance(value, core.ClosedJaxpr):
        avals = [_shape(var, widen=True) for var in value.jaxpr.invars]
        return jax.make_jaxpr(lambda *args: _evaluated(value, args))(*avals)
    if isinstance(value, core.Jaxpr):
        return _widened_param(core.ClosedJaxpr(value, ())).jaxpr if not value.constvars else value
    if isinstance(value, tuple) and any(isinstance(part, core.ClosedJaxpr) for part in value):
        return tuple(map(_widened_param, value))
    return value


def _wide(value: Any) -> Any:
    return jnp.asarray(value, _WIDE) if _dtype(value) == _NARROW else value


def _shape(var: Any, widen: bool = False) -> jax.ShapeDtypeStruct:
    dtype = var.aval.dtype
    return jax.ShapeDtypeStruct(var.aval.shape, _WIDE if widen and dtype == _NARROW else dtype)


def _is_narrow(jaxpr: core.Jaxpr) -> bool:
    """Whether anything in it is float32."""
    return any(_dtype(var.aval) == _NARROW for var in (*jaxpr.constvars, *jaxpr.invars)) or any(
        map(_has_narrow, jaxpr.eqns)
    )


def _has_narrow(equation: Any) -> bool:
    return any(_dtype(var.aval) == _NARROW for var in (*equation.invars, *equation.outvars)) or any(
        map(_is_narrow, core.jaxprs_in_params(equation.params))
    )


def _dtype(value: Any) -> Any:
    return getattr(value, "dtype", None)


def _is_floating(var: Any) -> bool:
    return bool(jnp.issubdtype(var.aval.dtype, jnp.floating))


def _is_dropped(var: Any) -> bool:
    return isinstance(var, core.DropVar)
