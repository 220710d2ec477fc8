"""In which order a traced JAX network uses its arrays, what it flattens before a dense layer, what it convolves."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from jax.extend import core

from netparity import equations
from netparity.graph import Trace


def order(traced: Trace) -> list[str]:
    """The names of the network's arrays in the order of their first use; those never used come last."""
    jaxpr = traced.jaxpr.jaxpr
    names = dict(zip(jaxpr.invars, sorted(traced.arrays), strict=False))  # the arrays are the first arguments
    found = dict.fromkeys(_used(jaxpr, names))
    return [*found, *(name for name in traced.arrays if name not in found)]


def _used(jaxpr: core.Jaxpr, names: Mapping[Any, str]) -> Iterator[str]:
    known = dict(names)
    for equation in jaxpr.eqns:
        operands = [var for var in equation.invars if not isinstance(var, core.Literal)]
        body = next(equations.bodies(equation), None)
        if body is not None and len(body.invars) == len(equation.invars):
            outer = [(own, var) for own, var in zip(body.invars, equation.invars, strict=True) if var in operands]
            yield from _used(body, {own: known[var] for own, var in outer if var in known})
        yield from (known[var] for var in operands if var in known)
        if equation.primitive.name in ("convert_element_type", "copy", "reshape", "transpose", "squeeze"):
            known |= {out: known[var] for var in operands if var in known for out in equation.outvars}


@dataclasses.dataclass(frozen=True)
class Flattening:
    """What is flattened into a matrix product's input.

    Attributes:
      map: the shape without the batch of what is flattened.
      stages: the named values between the flattening and the product, in which single values alone may be changed.
    """

    map: tuple[int, ...]
    stages: tuple[str, ...]


def flattened(traced: Trace) -> dict[str, Flattening]:
    """Every flattening before a matrix product, by the name of its kernel."""
    jaxpr = traced.jaxpr.jaxpr
    names = dict(zip(jaxpr.invars, sorted(traced.arrays), strict=False))
    producers = {var: equation for equation in jaxpr.eqns for var in equation.outvars}
    found = {}
    for equation in jaxpr.eqns:
        if equation.primitive.name != "dot_general":
            continue
        x, kernel = equation.invars
        if kernel in names and getattr(x.aval, "ndim", 0) == 2:
            before = _before(x, producers, traced)
            if before is not None:
                found[names[kernel]] = before
    return found


def convolved(traced: Trace) -> dict[str, tuple[int, ...]]:
    """What each kernel is first convolved with: by the kernel's name, the sizes without batch and channels."""
    jaxpr = traced.jaxpr.jaxpr
    names = dict(zip(jaxpr.invars, sorted(traced.arrays), strict=False))
    found: dict[str, tuple[int, ...]] = {}
    for equation in jaxpr.eqns:
        if equation.primitive.name == "conv_general_dilated" and equation.invars[1] in names:
            shape = equation.invars[0].aval.shape
            axes = equation.params["dimension_numbers"].lhs_spec[2:]  # behind those of batch and channels
            found.setdefault(names[equation.invars[1]], tuple(shape[axis] for axis in axes))
    return found


def _before(var: Any, producers: Mapping[Any, Any], traced: Trace) -> Flattening | None:
    """The map that a flat array was, where nothing but single values were changed since."""
    size, passed = var.aval.size, []
    while var in producers:
        passed += [name for name, tap in zip(traced.names, traced.taps, strict=True) if tap is var]
        equation = producers[var]
        operands = [v for v in equation.invars if not isinstance(v, core.Literal) and v.aval.size == size]
        if equation.primitive.name == "dot_general" or not operands:
            return None
        before = operands[-1] if equation.primitive.name == "select_n" else operands[0]
        if equation.primitive.name == "reshape" and before.aval.ndim > 2:
            return Flattening(tuple(before.aval.shape[1:]), tuple(passed))
        var = before
    return None
