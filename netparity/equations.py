"""Evaluates a traced computation piece by piece.

Source: "Writing custom Jaxpr interpreters in JAX", JAX documentation.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from jax.extend import core


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
