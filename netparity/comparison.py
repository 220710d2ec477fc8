"""Compares a JAX network with a PyTorch one.

It needs three things: in JAX a function that returns its named intermediates, the PyTorch module whose output each
of them is, and a table of the parameters' names and layouts.
"""

from __future__ import annotations

import dataclasses
import pathlib
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from flax import traverse_util
from torch import nn

from netparity import jax_side, levels, torch_side
from netparity.diagnosis import describe
from netparity.layouts import Layout, infer
from netparity.levels import DTYPES, Pair
from netparity.measure import ParityError
from netparity.report import document, environment, screen
from netparity.results import Result
from netparity.table import DenseKernel, Entry, NameTable


def compare(
    forward: jax_side.Forward,
    params: Any,
    module: nn.Module,
    table: Mapping[str, Entry],
    stages: Mapping[str, str],
    images: np.ndarray,
    labels: np.ndarray,
    *,
    dropouts: Sequence[str] = (),
    layouts: Mapping[str, Layout] | None = None,
    dtypes: Collection[str] = DTYPES,
    jax_loss: jax_side.Loss = jax_side.mean_cross_entropy,
    torch_loss: torch_side.Loss = nn.functional.cross_entropy,
    seed: int = 0,
) -> Result:
    """Compares shapes, forward pass, loss and gradients of two networks.

    Args:
      forward: ``(params, images, key) -> (logits, intermediates)`` in JAX, hashable and not jitted; ``key`` is None in
        evaluation mode, and a key in training mode whether anything is drawn or not. ``intermediates`` is a
        dictionary in the order of the network, each computed from the one before.
      params: the JAX parameters, float32 in nested dictionaries; each parameter's path begins with a stage's name.
      module: the PyTorch network, of images ``[batch, channel, height, width]``.
      table: every parameter of both sides: JAX name (path joined by dots) to `Same`, `ConvKernel` or `DenseKernel`.
      stages: intermediate's name to the name of the PyTorch module whose output it is, in the same order.
      images: float32 ``[batch, height, width, channel]``.
      labels: int ``[batch]``.
      dropouts: the stages that are dropout; PyTorch gets the masks that JAX draws.
      layouts: by stage, how its output lies in PyTorch where it differs from what the shapes and the table tell
        (`AsIs`, `ChannelsFirst`, `Flattened`).
      dtypes: of ``("float64", "float32")``.
      jax_loss, torch_loss: ``(logits, labels) -> scalar``; by default both the mean cross-entropy.
      seed: of dropout and of the random cotangents.

    Raises:
      ParityError: listing every entry of the tables that is missing, not wanted or misshapen.
    """
    unknown = [stage for stage in layouts or {} if stage not in stages]
    if unknown:
        raise ParityError(f"layouts are stated for what is no stage: {', '.join(unknown)}")
    arrays = {
        name: np.asarray(value, np.float32) for name, value in traverse_util.flatten_dict(params, sep=".").items()
    }
    names = NameTable(
        table,
        {name: value.shape for name, value in arrays.items()},
        {name: tuple(value.shape) for name, value in module.named_parameters()},
    )
    ours = jax_side.JaxSide(forward, jax_loss, tuple(dropouts))
    theirs = torch_side.TorchSide(module, stages, names.to_common, names.from_common, torch_loss)
    theirs = dataclasses.replace(theirs, layouts=_layouts(ours, theirs, arrays, images, table) | dict(layouts or {}))
    pair = Pair(ours, theirs, arrays, np.asarray(images, np.float32), np.asarray(labels), seed)
    result = Result(len(images), images.shape[1:])
    result.layers, result.checks, result.flips = levels.network(pair, dtypes)
    if result.failures:
        result.diagnosis = describe(result.failures[0], pair)
    return result


def _layouts(
    ours: jax_side.JaxSide,
    theirs: torch_side.TorchSide,
    params: dict[str, np.ndarray],
    images: np.ndarray,
    table: Mapping[str, Entry],
) -> dict[str, Layout]:
    """What the shapes on both sides, and the dense kernels that the table turns, tell of each stage's layout."""
    maps = [e.flattened for e in table.values() if isinstance(e, DenseKernel) and e.flattened is not None]
    return infer(ours.shapes(params, images), theirs.own_shapes(params, images), maps)


def finish(name: str, result: Result, out: pathlib.Path | None = None) -> int:
    """Prints the table, and writes ``report.json`` and ``report.html`` into a folder.

    Args:
      name: of the network, for people.
      result: what `compare` found.
      out: the folder; None writes nothing.

    Returns:
      0 if parity holds, else 1; 2 if the folder cannot be written to, which is told in one line on stderr.
    """
    print(screen.summary(name, result))
    if out is not None:
        try:
            document.write(document.to_dict({name: result}, environment.environment()), out)
        except OSError as error:
            print(f"error: {error.filename or out}: {error.strerror}: the report is not written", file=sys.stderr)
            return 2
    return 0 if result.passed else 1
