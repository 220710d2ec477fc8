"""Networks in Flax NNX."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import flax.nnx
import jax
import jax.numpy as jnp

from netparity import marks
from netparity.adapters.given import JaxNetwork, Mode, described, drops, float32, floating, usual_mode
from netparity.measure import ParityError

_Path = tuple[Any, ...]
# Attributes of the copies: strings are static in NNX, so they go through split and merge, jit, remat and scan.
_OUT, _IN = "_netparity_output", "_netparity_input"


def nnx(module: flax.nnx.Module, *, mode: Mode | None = None) -> JaxNetwork:
    """A Flax NNX network, as it is. The module itself is neither called nor changed.

    A copy of it is put in its mode by ``train()`` and ``eval()``. In training all its streams of random numbers start
    anew from one key; if its ``__call__`` names ``rngs``, it is given that key's streams.

    Args:
      module: the network, with its parameters.
      mode: keyword arguments of the call by whether it trains, ``lambda train: {"deterministic": not train}``; None
        finds the usual ones (``train``, ``training``, ``deterministic`` …) in the signature.

    Raises:
      ParityError: if ``module`` is no NNX module that can be called, or keeps something that is no array.
    """
    if not isinstance(module, flax.nnx.Module):
        given = f"the class {module.__name__}" if isinstance(module, type) else type(module).__name__
        raise ParityError(f"netparity.nnx takes a flax.nnx.Module with its parameters, not {given}")
    if not callable(module):
        raise ParityError(f"netparity.nnx takes a module that can be called; {type(module).__name__} has no __call__")
    graphdef, *states = flax.nnx.split(module, flax.nnx.Param, flax.nnx.RngState, ...)
    # Bare arrays: the copies must not share the module's own Variables.
    params, rngs, others = (dict(flax.nnx.to_flat_state(flax.nnx.as_pure(state))) for state in states)
    trained = {_name(path): path for path in params}
    kept = {_name(path): path for path in others}
    arrays = {_name(path): float32(_name(path), value) for path, value in (*params.items(), *others.items())}
    takes_rngs = "rngs" in inspect.signature(type(module).__call__).parameters
    network = _NNX(graphdef, trained, kept, rngs, mode or usual_mode(type(module).__call__), takes_rngs)
    variables = dict(flax.nnx.to_flat_state(flax.nnx.state(module, flax.nnx.Param)))

    def nested(flat: Mapping[str, Any]) -> Any:
        return flax.nnx.from_flat_state(
            [(trained[name], variables[trained[name]].replace(value)) for name, value in flat.items()]
        )

    def flat(state: Any) -> Mapping[str, Any]:
        return {_name(path): value for path, value in flax.nnx.to_flat_state(flax.nnx.as_pure(state))}

    modules = {_stage(path): described(part, vars(part)) for path, part in flax.nnx.iter_modules(module)}
    return JaxNetwork("nnx", network, arrays, nested, flat, modules=modules)


def _name(path: _Path) -> str:
    """A path joined by dots; a part of it may be a path itself.

    >>> _name(("blocks", 0, ("kernel", "sigma")))
    'blocks.0.kernel.sigma'
    """
    return ".".join(_name(part) if isinstance(part, tuple) else str(part) for part in path)


def _stage(path: _Path) -> str:
    return _name(path) or "output"


@dataclasses.dataclass(frozen=True, eq=False)
class _NNX:
    """What `nnx` computes with; see `netparity.graph.Network`."""

    graphdef: Any
    trained: Mapping[str, _Path]
    kept: Mapping[str, _Path]
    rngs: Mapping[_Path, Any]
    mode: Mode
    takes_rngs: bool

    @property
    def state(self) -> frozenset[str]:
        return frozenset(self.kept)

    def __call__(
        self, arrays: Mapping[str, jax.Array], inputs: Sequence[jax.Array], key: jax.Array | None
    ) -> tuple[Any, Mapping[str, jax.Array], Mapping[str, jax.Array]]:
        train = key is not None
        values = {path: arrays[name] for name, path in (*self.trained.items(), *self.kept.items())}
        values |= self.rngs if key is None else _started(self.rngs, key)
        model = flax.nnx.merge(self.graphdef, flax.nnx.from_flat_state(list(values.items())))
        if train:
            model.train()
        else:
            model.eval()
        _in_dtype(model, floating(arrays))
        _mark(model, train)
        outputs = model(*inputs, **self._keywords(key))
        after = dict(flax.nnx.to_flat_state(flax.nnx.as_pure(flax.nnx.state(model))))
        state = {name: after[path] for name, path in self.kept.items() if path in after} if train else {}
        return outputs, state, {}

    def _keywords(self, key: jax.Array | None) -> dict[str, Any]:
        rngs = None if key is None else flax.nnx.Rngs(jax.random.fold_in(key, len(self.rngs)))
        return {**({"rngs": rngs} if self.takes_rngs else {}), **self.mode(key is not None)}


def _in_dtype(model: flax.nnx.Module, dtype: Any) -> None:
    """Has a copy compute in the dtype that its parameters now have, where it still knows what they once had."""
    for _, module in flax.nnx.iter_modules(model):
        if isinstance(module, flax.nnx.Embed) and module.dtype == module.param_dtype:
            module.dtype = dtype  # if none is given, it is the table's
    model.set_attributes(param_dtype=dtype, raise_if_not_found=False)  # recurrent cells begin with zeros of it


def _started(rngs: Mapping[_Path, Any], key: jax.Array) -> dict[_Path, Any]:
    """All streams anew: a key of its own for each, and counts of zero."""
    found = {}
    for number, (path, value) in enumerate(rngs.items()):
        if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            own = jax.random.fold_in(key, number)
            found[path] = jax.random.split(own, value.shape) if value.shape else own
        else:
            found[path] = jnp.zeros_like(value)
    return found


def _mark(model: flax.nnx.Module, train: bool) -> None:
    """Has every module mark what it returns, and a dropout what it is given. Changes the model: for copies only."""
    for path, module in list(flax.nnx.iter_modules(model)):
        if callable(module):
            setattr(module, _OUT, _stage(path))
            setattr(module, _IN, f"{_stage(path)}.input" if train and drops(module) else "")
            object.__setattr__(module, "__class__", _marking(type(module)))


@functools.cache  # JAX keeps the classes of trees for ever, so there must be one of each only
def _marking(cls: Any) -> Any:
    """A class like this one, whose modules mark what they return."""

    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        if args and getattr(self, _IN):
            args = (marks.mark(args[0], getattr(self, _IN)), *args[1:])
        return marks.mark(cls.__call__(self, *args, **kwargs), getattr(self, _OUT))

    functools.update_wrapper(__call__, cls.__call__)
    names = {"__call__": __call__, "__module__": cls.__module__, "__qualname__": cls.__qualname__}
    return type(cls)(cls.__name__, (cls,), names, pytree=getattr(cls, "_pytree__is_pytree", True))
