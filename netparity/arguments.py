"""Looks at what `netparity.compare` is given before anything is computed."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
from torch import nn

from netparity.adapters.given import JaxNetwork
from netparity.layouts import AsIs, ChannelsFirst, Flattened, Regrouped
from netparity.measure import ParityError
from netparity.table import Entry


def require(
    network: Any,
    module: Any,
    inputs: Any,
    names: Mapping[str, tuple[Collection[str], Collection[str]]],
    *,
    table: Any = None,
    stages: Any = None,
    dropouts: Any = None,
    layouts: Any = None,
    losses: tuple[Any, Any] = (None, None),
    training: tuple[int, Any] = (0, None),
) -> None:
    """Refuses what makes no sense.

    Args:
      network, module, inputs: the two networks and what both get.
      names: by argument, the names that were given and those that are known.
      table, stages, dropouts, layouts: None where they are to be found.
      losses: JAX's and PyTorch's.
      training: steps, and the pair of optimizers.

    Raises:
      ParityError: listing all of it.
    """
    problems = [*_kinds(network, module, inputs), *_names(names)]
    if isinstance(table, Mapping):
        problems += [f"table: {name} is {type(e).__name__}, no entry such as netparity.Same(PyTorch name)"
                     for name, e in table.items() if not isinstance(e, Entry)]  # fmt: skip
    if isinstance(layouts, Mapping):
        known = (AsIs, ChannelsFirst, Flattened, Regrouped)
        problems += [f"layouts: {name} is {own!r}, no layout such as netparity.AsIs()"
                     for name, own in layouts.items() if not isinstance(own, known)]  # fmt: skip
    for what, value in (("table", table), ("layouts", layouts), ("stages", stages)):
        if value is not None and not isinstance(value, Mapping):
            problems.append(f"{what} is {type(value).__name__}, not a dictionary")
    if isinstance(stages, Mapping) and not stages:
        problems.append("stages are none: leave them out to have them found")
    if stages is not None and dropouts is not None:
        problems += [f"dropouts: {name} is no stage" for name in dropouts if name not in stages]
    if (losses[0] is None) != (losses[1] is None):
        problems.append("one loss is given: give jax_loss and torch_loss, or none of them")
    if (training[0] > 0) != (training[1] is not None):
        problems.append("training takes both: optimizer=(optax transformation, PyTorch factory) and steps=1 or more")
    if problems:
        raise ParityError("; ".join(problems))


def _kinds(network: Any, module: Any, inputs: Any) -> Iterator[str]:
    if not isinstance(network, JaxNetwork):
        yield (
            f"the JAX network is {type(network).__name__}: pass netparity.linen(module, variables), "
            "netparity.nnx(module), netparity.equinox(model) or netparity.function(forward, params)"
        )
    if not isinstance(module, nn.Module):
        yield f"the PyTorch network is {type(module).__name__}, not an nn.Module"
    given = inputs if isinstance(inputs, tuple | list) else (inputs,)
    if not given:
        yield "there are no inputs"
    for value in given:
        array = np.asarray(value)
        if array.dtype.kind not in "fiub":
            yield f"an input of dtype {array.dtype} is neither floating nor of integers"
        elif array.size == 0:
            yield f"an input of shape {list(array.shape)} is empty"


def _names(names: Mapping[str, tuple[Collection[str], Collection[str]]]) -> Iterator[str]:
    """What is not known, of every argument that takes names of a list."""
    for what, (given, known) in names.items():
        if isinstance(given, str):
            yield f"{what} is a list of names: {what}=[{given!r}]"
            continue
        wrong = [str(one) for one in given if one not in known]
        if what == "allow" and wrong:
            yield f"there is nothing to allow called {', '.join(wrong)}: known are {', '.join(known)}"
        elif what != "allow" and (wrong or not given):
            yield f"{what} are of {', '.join(known)}" + (f"; {', '.join(wrong)} is none" if wrong else ", at least one")


def labels(given: Any, batch: int, classes: int) -> np.ndarray:
    """Labels of the mean cross-entropy.

    Args:
      given: int ``[batch]``.
      batch: how many examples there are.
      classes: how many logits each has.

    Raises:
      ParityError: if they are not of that kind.
    """
    array = np.asarray(given)
    wanted = f"labels of the mean cross-entropy are integers [{batch}] from 0 to {classes - 1}"
    if array.dtype.kind not in "iu" or array.shape != (batch,):
        raise ParityError(f"{wanted}, not {array.dtype} {list(array.shape)}: for others give jax_loss and torch_loss")
    if array.size and not 0 <= array.min() <= array.max() < classes:
        raise ParityError(f"{wanted}: there is {array.max() if array.max() >= classes else array.min()}")
    return array
