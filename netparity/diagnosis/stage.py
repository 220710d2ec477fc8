"""One stage that differs: what both sides compute it from and give, and PyTorch's with one of its calls altered."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from netparity import bounds, calls, isolation, layouts, pairs
from netparity.jax_side import Groups, as_tuple, groups_of
from netparity.measure import Arrays, error
from netparity.pairs import Fed, Pair
from netparity.torch_side import Alone, Change, Leaves
from netparity.watching import Call, Watch

SAME = bounds.EXPLAINED_LIMIT
# What a call raises that is made in a way that does not fit its arrays.
UNFIT = (RuntimeError, ValueError, TypeError, IndexError, AttributeError, KeyError)


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """What explains a difference.

    Attributes:
      text: ``"JAX has epsilon 1e-06 where PyTorch has 1e-05"``.
      key: of the mistake in `netparity.diagnosis.mistakes`; empty where it is none that is known.
    """

    text: str
    key: str = ""


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage in isolation, in float64.

    Attributes:
      pair: the networks.
      name: of the stage.
      mode: ``"training"`` or ``"evaluation"``.
      fed: what it is computed from.
      parents, params: what it has products of.
      found: JAX's output and products, by quantity; PyTorch's where its output has the same shape.
    """

    pair: Pair
    name: str
    mode: str
    fed: Fed
    parents: tuple[str, ...]
    params: tuple[str, ...]
    found: Mapping[str, Arrays]

    @property
    def path(self) -> str:
        """PyTorch's module."""
        return calls.module_of(self.pair.torch.stages[self.name])

    @functools.cached_property
    def given(self) -> Arrays:
        """What the stage is computed from, by the names of stages and inputs, in float64."""
        inputs = {name: pairs.cast(x, "float64") for name, x in self.pair.named_inputs().items()}
        everything = {**inputs, **self.fed.as_dtype("float64")[0]}
        return {name: everything[name] for name in self.pair.graph(self.mode).parents[self.name] if name in everything}

    @functools.cached_property
    def before(self) -> Arrays:
        """What every other stage is fed, in float64."""
        fed = self.fed.as_dtype("float64")[0]
        return {name: fed[name] for name in self.pair.torch.stages if name in fed and name != self.name}

    @functools.cached_property
    def masks(self) -> Arrays | None:
        """The dropouts' masks; None in evaluation mode."""
        return self.pair.masks("float64") if self.mode == "training" else None

    @functools.cached_property
    def _leaves(self) -> Leaves:
        """Made once: the stage is run some hundred times."""
        return self.pair.torch.leaves(self.pair.params_as("float64"), self.pair.inputs_as("float64"), self.before)

    def quantity(self, name: str) -> str:
        """The name of the product with a parent or a parameter."""
        if name in self.params:
            return "vjp_" + name.removeprefix(f"{self.name}.")
        return "vjp_input" if len(self.parents) == 1 else f"vjp_input[{name}]"

    def run(self, watch: Watch | None = None, change: Mapping[str, Change] | None = None) -> Alone:
        """PyTorch's stage.

        Args:
          watch: entered around it.
          change: by parent, what is done with it first, or what takes its place.
        """
        return self.pair.torch.alone(self.name, self._leaves, self.masks, watch, change)

    def watched(self) -> list[Call]:
        """The calls that PyTorch's stage consists of."""
        watch = Watch(note=True)
        output = self.run(watch).output
        wanted = watch.sources(output)
        return [call for call in watch.calls if call.number in wanted]

    def output_of(self, alone: Alone) -> np.ndarray:
        """PyTorch's output in the common layout."""
        array = alone.output.detach().numpy()
        return np.ascontiguousarray(self.layout(array).to_common(array))

    def fits(self, alone: Alone, wanted: Arrays) -> bool:
        """Whether PyTorch's stage gives these numbers, products included."""
        if not _equal(self.output_of(alone), wanted["output"]):
            return False
        made = self.products(alone)
        cotangent = float(np.abs(self.fed.cotangents[self.name]).max())
        return all(
            _equal(made[name], wanted[self.quantity(name)], cotangent) for name in made if self.quantity(name) in wanted
        )

    def products(self, alone: Alone) -> Arrays:
        """PyTorch's vector-Jacobian products."""
        cotangent = self.fed.cotangents[self.name].astype(np.float64)
        array = alone.output.detach().numpy()
        turned = np.array(self.layout(array).to_torch(cotangent), order="C").reshape(array.shape)
        return self.pair.torch.products(alone, self.parents, self.params, torch.from_numpy(turned))

    def layout(self, array: np.ndarray) -> layouts.Layout:
        """How an output of PyTorch's lies beside JAX's."""
        own = self.pair.torch.layouts.get(self.name, layouts.usual(array.ndim))
        wanted = self.found["jax"]["output"].shape
        with contextlib.suppress(ValueError, IndexError):
            if own.to_common(array).shape == wanted:
                return own
        return layouts.by_shape(wanted, array.shape)


def _equal(found: np.ndarray, wanted: np.ndarray, cotangent: float | None = None) -> bool:
    if found.shape != wanted.shape:
        return False
    scale = None
    if cotangent is not None and wanted.size and float(np.abs(wanted).max()) < bounds.CANCELLED * cotangent:
        scale = cotangent
    return error(found, wanted, scale).max <= SAME


def of_failure(pair: Pair, name: str, mode: str) -> Stage:
    """A stage whose output has the same shape on both sides."""
    truth = pair.torch.forward(pair.params_as("float64"), pair.inputs_as("float64"))
    fed, masks = pairs.feed(truth, pair.seed), pair.masks("float64")
    groups = isolation.groups(pair, fed, mode, [name])
    found = {}
    for side in ("jax", "torch"):
        everything = isolation.quantities(pair.isolated(fed, side, "float64", masks, groups, mode), groups)
        found[side] = {quantity: value for (stage, quantity), value in everything.items() if stage == name}
    (_, parents, params), *_ = (row for group in groups for row in group if row[0] == name)
    return Stage(pair, name, mode, fed, parents, params, found)


def of_shapes(pair: Pair, name: str) -> Stage:
    """A stage whose output has another shape on either side, in evaluation mode; fed what JAX feeds it."""
    fed = pairs.feed(pair.jax.forward(pair.params_as("float64"), pair.inputs_as("float64")), pair.seed)
    groups: Groups = tuple(
        (row,)
        for group in groups_of(pair.graph("evaluation"), pair.jax.network.state, as_tuple(pair.inputs))
        for row in group
        if row[0] == name
    )
    everything = isolation.quantities(pair.isolated(fed, "jax", "float64", {}, groups, "evaluation"), groups)
    found = {quantity: value for (_, quantity), value in everything.items()}
    ((_, parents, params),) = groups[0]
    return Stage(pair, name, "evaluation", fed, parents, params, {"jax": found})


def altered(call: Call, run: Callable[..., Any]) -> Watch:
    """In which one call is made another way."""
    return Watch({call.number: run})
