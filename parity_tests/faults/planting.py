"""What a planted fault is, and the means to plant one in a copy of one side."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch import nn

from jaxalex.networks import alexnet
from parity_tests.alexnet import networks
from parity_tests.alexnet.networks import Case
from parity_tests.alexnet.programs import JaxProgram, TorchProgram

Programs = tuple[JaxProgram, TorchProgram]


@dataclasses.dataclass(frozen=True)
class Fault:
    """A mistake that changes something.

    Attributes:
      name: what was done.
      trap: the kind of mistake, for grouping.
      side: ``"jax"`` or ``"torch"``, where it is planted.
      stage: where a right check finds it first; by model where that differs.
      plant: gives the pair with the mistake in one of them.
      models: the networks it is planted in.
      image_hw: where the published image size hides it, one that shows it.
    """

    name: str
    trap: str
    side: str
    stage: str | dict[str, str]
    plant: Callable[[Case, Programs], Programs]
    models: tuple[str, ...] = ("cifar10", "paper")
    image_hw: tuple[int, int] | None = None

    def stage_of(self, model: str) -> str:
        return self.stage if isinstance(self.stage, str) else self.stage[model]


def in_module(
    change: Callable[[Any], None], stages: dict[str, str] | None = None
) -> Callable[[Case, Programs], Programs]:
    """A fault in a fresh copy of the PyTorch network; ``stages`` are modules that it moves."""

    def plant(case: Case, right: Programs) -> Programs:
        module = networks.torch_module(case)
        change(module)
        side = networks.torch_side(case, module, {**networks.torch_stages(), **(stages or {})})
        return right[0], dataclasses.replace(right[1], side=side)

    return plant


def in_layer(name: str, forward: Callable[[Any, torch.Tensor], torch.Tensor]) -> Callable[[Case, Programs], Programs]:
    """A fault in one PyTorch module: ``forward(module, x)`` in place of its own."""

    def change(module: nn.Module) -> None:
        layer = module.get_submodule(name)
        layer.forward = lambda x: forward(layer, x)

    return in_module(change)


def in_torch(**pieces: Any) -> Callable[[Case, Programs], Programs]:
    """A fault in other pieces of the PyTorch program."""
    return lambda case, right: (right[0], dataclasses.replace(right[1], **pieces))


def in_jax(**pieces: Any) -> Callable[[Case, Programs], Programs]:
    """A fault in other pieces of the JAX program."""
    return lambda case, right: (dataclasses.replace(right[0], **pieces), right[1])


def in_torch_loss(loss: Any) -> Callable[[Case, Programs], Programs]:
    """Another loss on the PyTorch side."""
    return lambda case, right: (
        right[0],
        dataclasses.replace(right[1], side=networks.torch_side(case, loss=loss)),
    )


def in_jax_loss(loss: Any) -> Callable[[Case, Programs], Programs]:
    """Another loss on the JAX side."""
    return lambda case, right: (dataclasses.replace(right[0], side=networks.jax_side(case, loss=loss)), right[1])


def in_jax_table(**changes: Any) -> Callable[[Case, Programs], Programs]:
    """A fault in the JAX network's table of layers: ``conv1={"padding": 0}``."""

    def plant(case: Case, right: Programs) -> Programs:
        network = right[0].network
        layers = tuple(dataclasses.replace(layer, **changes.get(layer.name, {})) for layer in network.layers)
        return _with_network(case, right, network.clone(layers=layers))

    return plant


class Altered:
    """A Flax network whose parameters are altered on the way in, or in whose module a name means something else."""

    def __init__(self, network: Any, params: Any = None, names: dict[str, Any] | None = None):
        self._network, self._params, self._names = network, params, names or {}
        self.layers, self.num_classes = network.layers, network.num_classes

    def apply(self, variables: Any, *args: Any, **kwargs: Any) -> Any:
        params = variables["params"] if self._params is None else self._params(variables["params"])
        with contextlib.ExitStack() as stack:
            for name, value in self._names.items():
                holder, _, attribute = name.rpartition(".")
                owner = alexnet if not holder else getattr(alexnet, holder)
                stack.enter_context(mock.patch.object(owner, attribute, value))
            return self._network.apply({"params": params}, *args, **kwargs)


def in_jax_network(params: Any = None, names: dict[str, Any] | None = None) -> Callable[[Case, Programs], Programs]:
    """A fault in the JAX network, while it is traced: see `Altered`."""
    return lambda case, right: _with_network(case, right, Altered(right[0].network, params, names))


def _with_network(case: Case, right: Programs, network: Any) -> Programs:
    return dataclasses.replace(right[0], network=network, side=networks.jax_side(case, network)), right[1]
