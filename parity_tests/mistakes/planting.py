"""Ways to plant a mistake: wrong text in the port's or the original's source, attributes, losses, optimizers.

Each way turns what is compared, a right `Setup`, into a wrong one; nothing of the right one is changed.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib
import inspect
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from netparity import JaxNetwork, jax_side
from parity_tests import ports

Names = dict[str, Any]  # what a port's source defines
Change = tuple[str, str]  # a text of a source, and what stands in its place


def ported(file: str, changes: Sequence[Change] = ()) -> Names:
    """What a port's source defines, with some of its text changed.

    Args:
      file: in `parity_tests.ports`: ``"lenet.py"``.
      changes: of each, the first text is replaced where it first stands.

    Raises:
      ValueError: if a text is not there.
    """
    module = importlib.import_module(f"{ports.__name__}.{file.removesuffix('.py')}")  # dataclasses look it up
    names: Names = {"__name__": module.__name__}
    exec(compile(_changed(inspect.getsource(module), changes), file, "exec"), names)
    return names


def _changed(source: str, changes: Sequence[Change]) -> str:
    for right, wrong in changes:
        if right not in source:
            raise ValueError(f"the source does not say {right!r}")
        source = source.replace(right, wrong, 1)
    return source


@dataclasses.dataclass(frozen=True)
class Network:
    """A right pair of networks.

    Attributes:
      name: for people, and by which mistakes name it.
      library: of the JAX side: ``"linen"``, ``"nnx"`` or ``"equinox"``.
      source: the port's file in `parity_tests.ports`.
      build: makes the JAX network of what the source defines, with the same values every time.
      torch: makes the original.
      inputs: draws a batch in the port's layout.
      num_classes: of the logits; None where the loss is a random sum of the outputs.
      keywords: what else `netparity.compare` is given.
      smaller: what is always changed in the source: numbers of channels that are no arguments.
    """

    name: str
    library: str
    source: str
    build: Callable[[Names], JaxNetwork]
    torch: Callable[[], nn.Module]
    inputs: Callable[[np.random.Generator], tuple[np.ndarray, ...]]
    num_classes: int | None
    keywords: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    smaller: tuple[Change, ...] = ()

    def port(self, changes: Sequence[Change] = ()) -> JaxNetwork:
        """The JAX network, of the port's source with some of its text changed."""
        return self.build(ported(self.source, (*changes, *self.smaller)))


@dataclasses.dataclass(frozen=True)
class Setup:
    """What `netparity.compare` is given.

    Attributes:
      of: the right pair that it is made of.
      jax, module: the two networks.
      inputs, labels: a batch.
      keywords: the rest.
    """

    of: Network
    jax: JaxNetwork
    module: nn.Module
    inputs: tuple[np.ndarray, ...]
    labels: np.ndarray | None
    keywords: Mapping[str, Any]

    def given(self, **keywords: Any) -> Setup:
        """The same with other keywords."""
        return dataclasses.replace(self, keywords={**self.keywords, **keywords})


def right(network: Network, jax: JaxNetwork | None = None, seed: int = 0) -> Setup:
    """The right pair with a batch drawn from a seed; ``jax`` is its JAX network, if that was made before."""
    rng = np.random.default_rng(seed)
    inputs = network.inputs(rng)
    classes = network.num_classes
    labels = None if classes is None else rng.integers(0, classes, len(inputs[0]))
    ours = network.port() if jax is None else jax
    return Setup(network, ours, network.torch(), inputs, labels, {**network.keywords, "seed": seed})


@dataclasses.dataclass(frozen=True)
class Jax:
    """The port's source with wrong text in it, as a porter would have written it."""

    changes: tuple[Change, ...]

    def __call__(self, setup: Setup) -> Setup:
        return dataclasses.replace(setup, jax=setup.of.port(self.changes))


def jax(*changes: Change) -> Jax:
    """The port's source with each first text replaced by the second."""
    return Jax(changes)


@dataclasses.dataclass(frozen=True)
class Torch:
    """The PyTorch network, a copy of which ``change`` gets, and spoils or replaces."""

    change: Callable[[nn.Module], nn.Module | None]

    def __call__(self, setup: Setup) -> Setup:
        module = copy.deepcopy(setup.module)
        return dataclasses.replace(setup, module=self.change(module) or module)


def attributes(path: str, **values: Any) -> Torch:
    """The attributes of one module within, such as ``eps``."""

    def change(module: nn.Module) -> None:
        within = module.get_submodule(path)
        for name, value in values.items():
            if not hasattr(within, name):
                raise ValueError(f"{path} has no {name}")
            setattr(within, name, value)

    return Torch(change)


def instead(path: str, make: Callable[[nn.Module], nn.Module]) -> Torch:
    """Another module in the place of one, which ``make`` gets."""

    def change(module: nn.Module) -> None:
        parent, _, name = path.rpartition(".")
        setattr(module.get_submodule(parent), name, make(module.get_submodule(path)))

    return Torch(change)


def forward(path: str, call: Callable[..., Any]) -> Torch:
    """Another ``forward(module, *inputs)`` for one module within."""
    return Torch(lambda module: _with_method(module.get_submodule(path), "forward", call))


def torch(path: str, *changes: Change, method: str = "forward") -> Torch:
    """The source of a method of one module within, with each first text replaced by the second."""

    def change(module: nn.Module) -> None:
        within = module.get_submodule(path)
        function = getattr(type(within), method)
        names: Names = dict(function.__globals__)
        source = textwrap.dedent(inspect.getsource(function))
        exec(compile(_changed(source, changes), inspect.getfile(function), "exec"), names)
        _with_method(within, method, names[method])

    return Torch(change)


def _with_method(module: nn.Module, name: str, function: Callable[..., Any]) -> None:
    """Gives one module a method of its own; it stays what it is by class and by name."""
    kind = type(module)
    module.__class__ = type(kind.__name__, (kind,), {name: function, "__module__": kind.__module__})


@dataclasses.dataclass(frozen=True)
class Losses:
    """Another loss on one side: ``(outputs, labels) -> scalar``."""

    side: str
    loss: Callable[[Any, Any], Any]

    def __call__(self, setup: Setup) -> Setup:
        losses = {"jax_loss": jax_side.mean_cross_entropy, "torch_loss": nn.functional.cross_entropy}
        return setup.given(**{**losses, f"{self.side}_loss": self.loss})


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """Another optimizer on one side: optax's transformation, or a function that makes PyTorch's of the parameters."""

    side: str
    optimizer: Any

    def __call__(self, setup: Setup) -> Setup:
        ours, theirs = setup.keywords["optimizer"]
        return setup.given(optimizer=(self.optimizer, theirs) if self.side == "jax" else (ours, self.optimizer))


@dataclasses.dataclass(frozen=True)
class Given:
    """Other keywords of `netparity.compare`, such as a table of one's own."""

    keywords: Callable[[Setup], Mapping[str, Any]]

    def __call__(self, setup: Setup) -> Setup:
        return setup.given(**self.keywords(setup))


@dataclasses.dataclass(frozen=True)
class Mistake:
    """A mistake, and what a right check says of it.

    Attributes:
      name: for people.
      kind: its key in the catalogue of known mistakes: ``"norm-epsilon"``.
      network: the right pair that it is planted in.
      side: ``"jax"`` or ``"torch"``: where it is planted.
      stage: where a right check finds it first.
      plant: turns the right setup into the wrong one.
      says: what the diagnosis must say, all of it, in whatever case; ``"a|b"`` is one or the other, ``"JAX=a"`` must
        be said of JAX.
      modes: in which the networks are compared; the whole pass is in evaluation mode in any case.
    """

    name: str
    kind: str
    network: str
    side: str
    stage: str
    plant: Callable[[Setup], Setup]
    says: tuple[str, ...]
    modes: tuple[str, ...] = ("training",)
