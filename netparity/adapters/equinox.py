"""Networks in Equinox, which is imported only when one is given."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from netparity import marks
from netparity.adapters.given import JaxNetwork, described, drops, float32, usual_mode
from netparity.measure import ParityError


def equinox(model: Any, state: Any = None, *, call: Callable[..., Any] | None = None) -> JaxNetwork:
    """An Equinox network, as it is. Neither the model nor the state is changed.

    The model takes one example, as is usual: it is called under ``jax.vmap`` with the ``axis_name`` that its layers
    have, and in evaluation mode under ``equinox.nn.inference_mode``. It gets ``state`` if it has one, and ``key``, a
    key for each example, if its ``__call__`` names one: in evaluation mode the default if there is one, else some key.

    Every floating array of the model is a parameter. Of the state, floating arrays are compared; others, such as the
    number of batches that ``equinox.nn.BatchNorm`` has seen, stay as they are. That layer divides its statistics by
    ``1 - momentum ** number`` in evaluation mode, which PyTorch does not, unless the number is 0.

    Args:
      model: the network.
      state: what ``equinox.nn.make_with_state`` gave beside it; None if it has none.
      call: calls the model on a whole batch where the above does not do:
        ``lambda model, *inputs, state, key: …``, which returns ``(outputs, new state)`` if there is a state, else the
        outputs. ``key`` is one key, None in evaluation mode.

    Raises:
      ParityError: if Equinox is not installed, ``model`` is none, or its state is missing.
    """
    try:
        import equinox as eqx
    except ImportError as problem:
        raise ParityError("netparity.equinox needs Equinox: pip install equinox") from problem
    if not isinstance(model, eqx.Module):
        given = f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__
        hint = ": pass both, netparity.equinox(model, state)" if isinstance(model, tuple) else ""
        raise ParityError(f"netparity.equinox takes an equinox.Module with its parameters, not {given}{hint}")
    if call is None and not callable(model):
        raise ParityError(
            f"{type(model).__name__} has no __call__: say how it is called with netparity.equinox's call="
        )
    if state is not None and not isinstance(state, eqx.nn.State):
        raise ParityError(f"the state is {type(state).__name__}, not the equinox.nn.State that make_with_state gave")
    if state is None and any(True for _ in _indices(model)):
        raise ParityError("the model keeps a state: netparity.equinox(model, state), as make_with_state gave them")
    params, static = eqx.partition(model, eqx.is_inexact_array)
    leaves, tree = jax.tree_util.tree_flatten_with_path(params)
    names = tuple(_name(path) for path, _ in leaves)
    places = _places(model, state, set(names))
    values, state_tree = jax.tree.flatten(state)
    kept = {name: place for name, place in places.items() if jnp.issubdtype(values[place].dtype, jnp.floating)}
    arrays = {name: float32(name, value) for name, (_, value) in zip(names, leaves, strict=True)}
    arrays |= {name: float32(name, values[place]) for name, place in kept.items()}
    # As NumPy's: a weakly typed number would become another type under 64 bits, which a State refuses.
    rest = tuple(None if place in kept.values() else np.asarray(value) for place, value in enumerate(values))
    given_call = _vmapped(model) if call is None else call
    network = _Equinox(names, tree, static, kept, rest, state_tree if state is not None else None, given_call)

    def nested(flat: Mapping[str, Any]) -> Any:
        return jax.tree.unflatten(tree, [flat[name] for name in names])

    def flat(whole: Any) -> Mapping[str, Any]:
        return dict(zip(names, jax.tree.leaves(whole), strict=True))

    modules = {path: described(part, vars(part)) for path, part in _modules(model)}
    return JaxNetwork("equinox", network, arrays, nested, flat, channels_last=False, modules=modules)


@dataclasses.dataclass(frozen=True, eq=False)
class _Equinox:
    """What `equinox` computes with; see `netparity.graph.Network`.

    Attributes:
      names: of the parameters, in the order of the model.
      tree: of the parameters.
      static: the rest of the model.
      kept: the places of the state's floating arrays among all of the state, by name.
      rest: the state's other arrays; None where a floating one belongs.
      state_tree: of the state; None if there is none.
      call: see `equinox`.
    """

    names: tuple[str, ...]
    tree: Any
    static: Any
    kept: Mapping[str, int]
    rest: tuple[Any, ...]
    state_tree: Any
    call: Callable[..., Any]

    @property
    def state(self) -> frozenset[str]:
        return frozenset(self.kept)

    def __call__(
        self, arrays: Mapping[str, jax.Array], inputs: Sequence[jax.Array], key: jax.Array | None
    ) -> tuple[Any, Mapping[str, jax.Array], Mapping[str, jax.Array]]:
        import equinox as eqx

        params = jax.tree.unflatten(self.tree, [arrays[name] for name in self.names])
        model = eqx.nn.inference_mode(eqx.combine(params, self.static), value=key is None)
        model = _marked(model, key is not None)
        if self.state_tree is None:
            return self.call(model, *inputs, state=None, key=key), {}, {}
        values = list(self.rest)
        for name, place in self.kept.items():
            values[place] = arrays[name]
        outputs, after = self.call(model, *inputs, state=jax.tree.unflatten(self.state_tree, values), key=key)
        found = jax.tree.leaves(after)
        return outputs, {name: found[place] for name, place in self.kept.items()} if key is not None else {}, {}


def _vmapped(model: Any) -> Callable[..., Any]:
    """How a model of one example is called on a batch."""
    known = inspect.signature(type(model).__call__).parameters
    takes_key, needs_key = "key" in known, "key" in known and known["key"].default is inspect.Parameter.empty
    mode = usual_mode(type(model).__call__, leave_none=True)  # None leaves it to inference_mode
    axes = {name for _, part in _modules(model) if isinstance(name := getattr(part, "axis_name", None), str)}
    if len(axes) > 1:
        raise ParityError(
            f"the model's layers name several axes, {', '.join(sorted(axes))}: say how it is called with call="
        )

    def call(model: Any, *inputs: Any, state: Any, key: jax.Array | None) -> Any:
        keywords = mode(key is not None)
        own = jax.random.key(0) if key is None and needs_key else key
        keys = None if own is None or not takes_key else jax.random.split(own, len(inputs[0]))

        def one(inputs: Any, state: Any, key: Any) -> Any:
            random = {} if key is None else {"key": key}
            if state is None:
                return model(*inputs, **random, **keywords), None
            if "state" in known:
                return model(*inputs, state=state, **random, **keywords)
            return model(*inputs, state, **random, **keywords)

        batched = jax.vmap(one, in_axes=(0, None, 0), out_axes=(0, None), axis_name=next(iter(axes), "batch"))
        outputs, after = batched(inputs, state, keys)
        return outputs if state is None else (outputs, after)

    return call


# ---------------------------------------------------------------------------------------------------- state


def _indices(model: Any) -> Iterator[tuple[Any, Any]]:
    """Every ``StateIndex`` with its path."""
    import equinox as eqx

    def is_index(part: Any) -> bool:
        return isinstance(part, eqx.nn.StateIndex)

    for path, part in jax.tree_util.tree_flatten_with_path(model, is_leaf=is_index)[0]:
        if is_index(part):
            yield path, part


def _places(model: Any, state: Any, taken: set[str]) -> dict[str, int]:
    """The place of each of the state's arrays among all of them, by name.

    An array is called after the field that keeps it, and those of batch normalisation ``mean`` and ``var``.
    """
    import equinox as eqx

    numbered = jax.tree.unflatten(jax.tree.structure(state), range(len(jax.tree.leaves(state))))
    norms = {path for path, part in _modules(model) if isinstance(part, eqx.nn.BatchNorm)}
    found: dict[str, int] = {}
    for path, index in _indices(model):
        inner = jax.tree_util.tree_flatten_with_path(numbered.get(index))[0]
        names = [_name((*path, *own)) for own, _ in inner]
        if (_name(path[:-1]) or "output") in norms and len(inner) == 2:
            names = [".".join(filter(None, (_name(path[:-1]), what))) for what in ("mean", "var")]
        for name, (_, place) in zip(names, inner, strict=True):
            if place not in found.values():
                found[f"state.{name}" if name in taken else name] = place
    return found


# ---------------------------------------------------------------------------------------------------- marks


def _name(path: Sequence[Any]) -> str:
    """A path joined by dots: ``layers.0.conv``."""
    return ".".join(str(marks.step(part)) for part in path)


def _modules(model: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every module with its path; the model's is ``output``."""
    import equinox as eqx

    def is_child(part: Any) -> bool:
        return part is not model and isinstance(part, eqx.Module)

    if isinstance(model, eqx.Module):
        yield _name(path) or "output", model
    for own, part in jax.tree_util.tree_flatten_with_path(model, is_leaf=is_child)[0]:
        if is_child(part):
            yield from _modules(part, (*path, *own))


def _marked(model: Any, train: bool, path: tuple[Any, ...] = ()) -> Any:
    """A copy of a model whose modules mark what they return, and dropouts in training what they are given."""
    import equinox as eqx

    def is_child(part: Any) -> bool:
        return part is not model and isinstance(part, eqx.Module)

    parts, tree = jax.tree_util.tree_flatten_with_path(model, is_leaf=is_child)
    children = [_marked(part, train, (*path, *own)) if is_child(part) else part for own, part in parts]
    copy = jax.tree.unflatten(tree, children)
    if isinstance(copy, eqx.Module) and callable(copy):
        name = _name(path) or "output"
        object.__setattr__(copy, "netparity_output", name)
        object.__setattr__(copy, "netparity_input", f"{name}.input" if train and drops(copy) else "")
        object.__setattr__(copy, "__class__", _marking(type(copy)))
    return copy


@functools.cache  # JAX keeps the classes of trees for ever, so there must be one of each only
def _marking(cls: Any) -> Any:
    """A class like this one, whose modules mark what they return.

    Its names are static fields, so they go through all that flattens the module: jit, vmap, scan, partition.
    """
    import equinox as eqx

    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        if args and self.netparity_input:
            args = (marks.mark(args[0], self.netparity_input), *args[1:])
        return _marked_values(cls.__call__(self, *args, **kwargs), self.netparity_output)

    functools.update_wrapper(__call__, cls.__call__)
    names = {
        "__call__": __call__,
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__annotations__": {"netparity_input": str, "netparity_output": str},
        "netparity_input": eqx.field(static=True, default=""),
        "netparity_output": eqx.field(static=True, default=""),
    }
    return type(cls)(cls.__name__, (cls,), names)


def _marked_values(out: Any, name: str) -> Any:
    """What a module returned, marked; the state beside it is no output, and neither are modules."""
    import equinox as eqx

    if isinstance(out, tuple) and len(out) > 1 and isinstance(out[-1], eqx.nn.State):
        values = marks.mark(out[0], name) if len(out) == 2 else marks.mark(tuple(out[:-1]), name)
        return (values, out[-1]) if len(out) == 2 else (*values, out[-1])
    leaves = jax.tree.leaves(out, is_leaf=lambda part: isinstance(part, eqx.Module | eqx.nn.State))
    return out if any(isinstance(part, eqx.Module | eqx.nn.State) for part in leaves) else marks.mark(out, name)
