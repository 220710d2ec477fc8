"""Evaluates a traced computation piece by piece.

Source: "Writing custom Jaxpr interpreters in JAX", JAX documentation.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import jax
from jax.extend import core

# The parameter that holds what an equation merely calls, by the name of its operation.
CALLS = {
    **dict.fromkeys(("jit", "pjit", "remat2", "checkpoint"), "jaxpr"),
    **dict.fromkeys(("closed_call", "core_call"), "call_jaxpr"),
}


def closed(value: Any) -> core.ClosedJaxpr | None:
    """A computation that needs no constants but its own; None if the value is none."""
    if isinstance(value, core.ClosedJaxpr):  # from JAX 0.11 on there is no other kind
        return value
    return core.ClosedJaxpr(value, ()) if isinstance(value, core.Jaxpr) and not value.constvars else None


def scan_counts(scan: Any) -> tuple[int, int]:
    """How many of a loop's operands are constants, and how many, after them, are carried from turn to turn.

    The others, and the results after what is carried, have one more axis than in the loop's body. (The loop's own
    parameters tell it, too, in each version of JAX by other names.)
    """
    body = scan.params["jaxpr"].jaxpr
    stacked = sum(var.aval.ndim > own.aval.ndim for var, own in zip(scan.invars, body.invars, strict=True))
    carried = sum(var.aval.ndim == own.aval.ndim for var, own in zip(scan.outvars, body.outvars, strict=True))
    return len(scan.invars) - carried - stacked, carried


def bodies(equation: Any) -> Iterator[core.Jaxpr]:
    """The computations within an equation."""
    for value in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_jaxpr):
        if _is_jaxpr(value):
            yield value.jaxpr if isinstance(value, core.ClosedJaxpr) else value


def _is_jaxpr(value: Any) -> bool:
    return isinstance(value, core.Jaxpr | core.ClosedJaxpr)


def evaluate(
    jaxpr: core.Jaxpr, equations: Sequence[Any], read: Callable[[Any], Any], wanted: Collection[Any] | None = None
) -> dict[Any, Any]:
    """The results of some consecutive equations of a computation, by variable.

    Args:
      jaxpr: the computation.
      equations: of its equations.
      read: gives the value of a variable that they need.
      wanted: the variables whose values are asked for; None asks for all.
    """
    results = [
        var
        for equation in equations
        for var in equation.outvars
        if not isinstance(var, core.DropVar) and (wanted is None or var in wanted)
    ]
    made = {var for equation in equations for var in equation.outvars}
    operands = list(
        dict.fromkeys(
            var
            for equation in equations
            for var in equation.invars
            if not isinstance(var, core.Literal) and var not in made
        )
    )
    no_names = jaxpr.debug_info._replace(arg_names=None, result_paths=None)
    alone = jaxpr.replace(constvars=[], invars=operands, outvars=results, eqns=list(equations), debug_info=no_names)
    values = core.jaxpr_as_fun(core.ClosedJaxpr(alone, ()))(*map(read, operands))
    return dict(zip(results, values, strict=True))
