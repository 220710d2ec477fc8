"""Evaluates a traced computation one equation at a time.

Source: "Writing custom Jaxpr interpreters in JAX", JAX documentation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jax.extend import core


def evaluate(jaxpr: core.Jaxpr, equation: Any, read: Callable[[Any], Any]) -> dict[Any, Any]:
    """The results of one equation of ``jaxpr`` by variable; ``read`` gives the value of a variable."""
    operands = list(dict.fromkeys(var for var in equation.invars if not isinstance(var, core.Literal)))
    results = [var for var in equation.outvars if not isinstance(var, core.DropVar)]
    no_names = jaxpr.debug_info._replace(arg_names=None, result_paths=None)
    alone = jaxpr.replace(constvars=[], invars=operands, outvars=results, eqns=[equation], debug_info=no_names)
    values = core.jaxpr_as_fun(core.ClosedJaxpr(alone, ()))(*map(read, operands))
    return dict(zip(results, values, strict=True))
