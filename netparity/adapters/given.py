"""A network of any library with its values: what is compared."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from netparity.graph import Network
from netparity.measure import Arrays, ParityError

# Keyword arguments by which networks are told their mode: for training mode True, or False.
_MODES = {
    **dict.fromkeys(("train", "training", "is_training"), True),
    **dict.fromkeys(("deterministic", "inference", "eval", "evaluation", "use_running_average"), False),
}


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
    """

    library: str
    network: Network
    arrays: Arrays
    nested: Callable[[Mapping[str, Any]], Any] = dict
    flat: Callable[[Any], Mapping[str, Any]] = dict
    channels_last: bool = True


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
