"""Two networks side by side, and what both are fed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from netparity.graph import Graph, input_names
from netparity.jax_side import Gradients, Groups, Inputs, Isolated, JaxSide, as_tuple
from netparity.measure import Arrays, ParityError
from netparity.torch_side import TorchSide

DTYPES = ("float64", "float32")
MODES = ("training", "evaluation")


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two sides and what both are fed.

    Attributes:
      jax, torch: the sides.
      params: parameters and state by common name, in float32.
      inputs: in JAX's layout (float32 ``[batch, height, width, channel]``, tokens ``[batch, time]`` …), one or several.
      labels: what the losses take, such as int ``[batch]``.
      seed: of dropout and of the random cotangents.
    """

    jax: JaxSide
    torch: TorchSide
    params: Arrays
    inputs: Inputs
    labels: Any
    seed: int = 0

    def params_as(self, dtype: str) -> Arrays:
        """Parameters and state in a dtype."""
        return {name: cast(value, dtype) for name, value in self.params.items()}

    def inputs_as(self, dtype: str) -> Inputs:
        """The inputs in a dtype."""
        if isinstance(self.inputs, tuple):
            return tuple(cast(value, dtype) for value in self.inputs)
        return cast(self.inputs, dtype)

    def named_inputs(self) -> Arrays:
        """The inputs by the names that they have among the sources of a stage."""
        given = as_tuple(self.inputs)
        return dict(zip(input_names(len(given)), given, strict=True))

    def labels_as(self, dtype: str) -> Any:
        """The labels in a dtype, where they are floating."""
        if isinstance(self.labels, tuple):
            return tuple(cast(value, dtype) for value in self.labels)
        return cast(self.labels, dtype)

    def masks(self, dtype: str) -> Arrays:
        """The dropout masks that the JAX side draws in a dtype."""
        if not self.jax.dropouts:
            return {}
        return self.jax.masks(self.params_as(dtype), self.inputs_as(dtype), self.seed)

    def graph(self, mode: str = "training") -> Graph:
        """Who feeds whom on the JAX side."""
        return self.jax.graph(self.params, self.inputs, mode == "training")

    def isolated(self, fed: Fed, side: str, dtype: str, masks: Arrays, groups: Groups, mode: str) -> Isolated:
        """One side's stages in isolation; ``masks`` are the PyTorch side's, in training mode."""
        args = (self.params_as(dtype), self.inputs_as(dtype), *fed.as_dtype(dtype))
        if side == "jax":
            return self.jax.isolated(*args, self.seed if mode == "training" else None, groups)
        return self.torch.isolated(*args, masks if mode == "training" else None, groups)

    def gradients(self, side: str, dtype: str, masks: Arrays, mode: str) -> Gradients:
        """One side's whole pass; ``masks`` are the PyTorch side's, in training mode."""
        args = (self.params_as(dtype), self.inputs_as(dtype), self.labels_as(dtype))
        if side == "jax":
            return self.jax.gradients(*args, self.seed if mode == "training" else None)
        return self.torch.gradients(*args, masks if mode == "training" else None)


def cast(value: np.ndarray, dtype: str) -> np.ndarray:
    """A floating array in a dtype; any other as it is."""
    return value.astype(dtype) if value.dtype.kind == "f" else value


def stage_of(parameter: str, stages: Iterable[str]) -> str:
    """The stage that a parameter belongs to by its name: the longest name that the parameter's begins with.

    Raises:
      ParityError: if there is none.

    >>> stage_of("block1.conv.kernel", ["block1", "block1.conv", "block1.conv2"])
    'block1.conv'
    """
    owners = [stage for stage in stages if parameter.startswith(f"{stage}.")]
    if not owners:
        raise ParityError(f"the parameter {parameter} belongs to no stage: a parameter's name begins with its stage's")
    return max(owners, key=len)


def owners(graph: Graph, params: Iterable[str]) -> dict[str, str]:
    """The stage that each parameter is used in: of several, the first; of none, the last stage of all."""
    last = list(graph.parents)[-1] if graph.parents else ""
    return {name: next((stage for stage, used in graph.params.items() if name in used), last) for name in params}


@dataclasses.dataclass(frozen=True)
class Fed:
    """What every stage is fed in isolation, exactly representable in float32: activations and cotangents by stage."""

    inputs: Arrays
    cotangents: Arrays

    def as_dtype(self, dtype: str) -> tuple[Arrays, Arrays]:
        """Both in a dtype."""
        return (
            {name: value.astype(dtype) for name, value in self.inputs.items()},
            {name: value.astype(dtype) for name, value in self.cotangents.items()},
        )


def feed(truth: Mapping[str, np.ndarray], seed: int) -> Fed:
    """Inputs near the true activations, and random cotangents.

    The first image's activations are rounded to an eighth of their scale, so that exact zeros and exact ties, which
    random numbers never show, reach every ReLU and every pooling.
    """
    rng = np.random.default_rng(seed)
    inputs, cotangents = {}, {}
    for name, value in truth.items():
        inputs[name] = value.astype(np.float32)
        scale = float(np.abs(inputs[name][0]).max())
        if scale > 0 and math.isfinite(scale):
            step = np.float32(2.0 ** (math.floor(math.log2(scale)) - 3))
            inputs[name][0] = np.rint(inputs[name][0] / step) * step + np.float32(0)  # no negative zeros
        cotangents[name] = rng.standard_normal(value.shape).astype(np.float32)
    return Fed(inputs, cotangents)
