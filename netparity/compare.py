"""Compare networks of your own: a JAX one and a PyTorch one, through the same levels as the AlexNets.

See ``docs/port-your-own.md``. What it needs of each side: in JAX a function that returns its named intermediates, in
PyTorch the module whose output each of them is, and a table of the parameters' names and layouts.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
from flax import traverse_util
from torch import nn

from netparity.diagnosis import describe
from netparity.jax_side import Forward, JaxSide, mean_cross_entropy
from netparity.levels import DTYPES, Pair
from netparity.measure import ParityError
from netparity.report import screen as report
from netparity.results import Result
from netparity.table import ConvKernel, DenseKernel, NameTable, Same
from netparity.torch_side import TorchSide
from parity_tests.alexnet import suite

__all__ = ["ConvKernel", "DenseKernel", "ParityError", "Result", "Same", "compare", "finish"]


def compare(
    forward: Forward,
    params: Any,
    module: nn.Module,
    table: Mapping[str, Same | ConvKernel | DenseKernel],
    stages: Mapping[str, str],
    images: np.ndarray,
    labels: np.ndarray,
    *,
    dropouts: Sequence[str] = (),
    dtypes: Collection[str] = DTYPES,
    jax_loss: Callable[..., Any] = mean_cross_entropy,
    torch_loss: Callable[..., Any] | None = None,
    seed: int = 0,
) -> Result:
    """Shapes, forward pass, loss and gradients of two networks, judged as the AlexNets are.

    Args:
      forward: ``(params, images, key) -> (logits, intermediates)`` in JAX, not jitted; ``key`` is None in evaluation
        mode. ``intermediates`` is a dictionary in the order of the network, each computed from the one before.
      params: the JAX parameters, float32 in nested dictionaries; each parameter's path begins with a stage's name.
      module: the PyTorch network, of images ``[batch, channel, height, width]``.
      table: every parameter of both sides: JAX name (path joined by dots) to `Same`, `ConvKernel` or `DenseKernel`.
      stages: intermediate's name to the name of the PyTorch module whose output it is, in the same order.
      images: float32 ``[batch, height, width, channel]``.
      labels: int ``[batch]``.
      dropouts: the stages that are dropout; PyTorch gets the masks that JAX draws.
      dtypes: of ``("float64", "float32")``.
      jax_loss, torch_loss: ``(logits, labels) -> scalar``; by default both the mean cross-entropy.
      seed: of dropout and of the random cotangents.

    Raises:
      ParityError: listing every entry of the tables that is missing, not wanted or misshapen.
    """
    arrays = {
        name: np.asarray(value, np.float32) for name, value in traverse_util.flatten_dict(params, sep=".").items()
    }
    names = NameTable(
        table,
        {name: value.shape for name, value in arrays.items()},
        {name: tuple(value.shape) for name, value in module.named_parameters()},
    )
    torch_side = TorchSide(module, stages, names.to_common, names.from_common, torch_loss)
    pair = Pair(JaxSide(forward, jax_loss, dropouts), torch_side, arrays, np.float32(images), np.asarray(labels), seed)
    result = Result(len(images), images.shape[1:])
    result.layers, result.checks, result.flips = suite.network(pair, dtypes)
    if result.failures:
        result.diagnosis = describe(result.failures[0], pair, None, seed)
    return result


def finish(name: str, result: Result, out: pathlib.Path | None = None, seconds: float = 0.0) -> int:
    """Prints the table, writes ``report.json`` and ``report.html`` into ``out``, and gives the exit code.

    Returns:
      0 if parity holds, else 1.
    """
    print(report.summary(name, result))
    if out is not None:
        report.write(report.to_dict({name: result}, report.environment({}, seconds)), out)
    return 0 if result.passed else 1
