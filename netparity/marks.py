"""Marks on values of a JAX network: the identity, told from everything else in its trace."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

# checkpoint_name's own primitive would do, but where it is vectorised it leaves the batch axis wherever that is.
_mark = Primitive("netparity_mark")
_mark.def_impl(lambda x, *, name: x)
_mark.def_abstract_eval(lambda x, *, name: x)
mlir.register_lowering(_mark, lambda context, x, *, name: [x])
ad.primitive_jvps[_mark] = lambda primals, tangents, *, name: (_mark.bind(*primals, name=name), tangents[0])
batching.primitive_batchers[_mark] = lambda args, dims, *, name: (
    _mark.bind(jnp.moveaxis(args[0], dims[0], 0), name=name),
    0,
)

PRIMITIVES = frozenset({_mark.name, "name"})  # the other is checkpoint_name's


def mark(values: Any, name: str) -> Any:
    """Names every floating array of a value: ``name``, or ``name[0]``, ``name[key]`` for the parts of a structure."""

    def named(path: Any, leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array) or not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        return _mark.bind(leaf, name=name + "".join(f"[{step(part)}]" for part in path))

    return jax.tree_util.tree_map_with_path(named, values)


def step(part: Any) -> Any:
    """One step of a path in a tree: an attribute's or a key's name, or a place."""
    return next((getattr(part, kind) for kind in ("name", "key", "idx") if hasattr(part, kind)), part)
