"""A network of any library with its values: what is compared."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from netparity.graph import Network
from netparity.measure import Arrays, ParityError

_LIBRARIES = ("flax", "equinox")
# Keyword arguments by which networks are told their mode: for training mode True, or False.
_MODES = {
    **dict.fromkeys(("train", "training", "is_training"), True),
    **dict.fromkeys(("deterministic", "inference", "eval", "evaluation", "use_running_average"), False),
}


@dataclasses.dataclass(frozen=True)
class JaxModule:
    """A module of a JAX network, as its author has set it up.

    Attributes:
      kind: the library's class that says what it computes (``"Conv"``), also of a subclass; empty of a class that does
        that itself.
      attributes: those that are numbers, strings, None, or tuples and lists of these (``{"strides": 2, …}``).
    """

    kind: str
    attributes: Mapping[str, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class JaxNetwork:
    """A network in JAX.

    Attributes:
      library: ``"linen"``, ``"nnx"``, ``"equinox"`` or ``"function"``.
      network: computes it.
      arrays: its parameters and its state by name, float32 where they are floating.
      nested: parameters by name in the structure that the library's users know, such as an optimizer gets.
      flat: the inverse of ``nested``.
      channels_last: whether images are ``[batch, height, width, channel]``.
      modules: by path (``"layers.0.conv"``; ``"output"`` is the network itself); of Linen those that have been called
        in a trace so far; a function has none.
    """

    library: str
    network: Network
    arrays: Arrays
    nested: Callable[[Mapping[str, Any]], Any] = dict
    flat: Callable[[Any], Mapping[str, Any]] = dict
    channels_last: bool = True
    modules: Mapping[str, JaxModule] = dataclasses.field(default_factory=dict)


def float32(name: str, value: Any) -> np.ndarray:
    """An array of a network as NumPy's, float32 where it is floating.

    Raises:
      ParityError: if it is none.
    """
    try:
        array = np.asarray(value)
    except TypeError as error:
        raise ParityError(f"{name}: {error}") from error
    if array.dtype.kind in "OSU":
        raise ParityError(f"{name}: {type(value).__name__} is no array of numbers")
    floating = array.dtype.kind == "f" or array.dtype.name in ("bfloat16", "float8_e4m3fn", "float8_e5m2")
    return array.astype(np.float32) if floating else array


Mode = Callable[[bool], Mapping[str, Any]]  # keyword arguments by whether it trains


def usual_mode(function: Callable[..., Any], leave_none: bool = False) -> Mode:
    """The keyword argument that tells a function its mode, if it has one.

    Args:
      function: what is called.
      leave_none: whether one whose default is None is left alone.

    >>> usual_mode(lambda x, deterministic=True: x)(True)
    {'deterministic': False}
    """
    known = inspect.signature(function).parameters
    name = next((name for name in _MODES if name in known), None)
    if name is None or (leave_none and known[name].default is None):
        return lambda train: {}
    return lambda train: {name: train == _MODES[name]}


def floating(arrays: Mapping[str, Any]) -> Any:
    """The dtype of the floating ones among a network's arrays."""
    return next((x.dtype for x in arrays.values() if jnp.issubdtype(x.dtype, jnp.floating)), jnp.float32)


def drops(module: Any) -> bool:
    """Whether a module is a dropout, by its name: ``Dropout``, ``DropPath``, ``StochasticDepth`` …

    In training its input is marked, so that the layer before it is a stage of its own even if it is no module.
    """
    return any(word in type(module).__name__.lower() for word in ("drop", "stochastic"))


def described(module: Any, attributes: Mapping[str, Any]) -> JaxModule:
    """What is known of a module of a library from its attributes."""
    return JaxModule(
        library_class(type(module), "__call__", _LIBRARIES), {k: v for k, v in attributes.items() if _plain(v)}
    )


def library_class(cls: type, method: str, libraries: Collection[str]) -> str:
    """The name of the class of these libraries whose ``method`` a class has; empty if it has its own, or none.

    >>> import collections
    >>> library_class(type("Mine", (collections.OrderedDict,), {}), "keys", ["collections"])
    'OrderedDict'
    >>> library_class(type("Mine", (collections.OrderedDict,), {"keys": None}), "keys", ["collections"])
    ''
    """
    ours = [one.__module__.partition(".")[0] in libraries for one in cls.__mro__]
    defines = next((own for one, own in zip(cls.__mro__, ours, strict=True) if method in vars(one)), False)
    return next(one.__name__ for one, own in zip(cls.__mro__, ours, strict=True) if own) if defines else ""


def _plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(_plain(part) for part in value)
    return value is None or isinstance(value, bool | int | float | str)
