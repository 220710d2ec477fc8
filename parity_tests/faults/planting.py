"""What a planted fault is, and the means to plant one in a copy of one side."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from jaxalex.networks.alexnet import AlexNet
from jaxalex.networks.tables import Flatten
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
        layers = tuple(
            layer if isinstance(layer, Flatten) else dataclasses.replace(layer, **changes.get(layer.name, {}))
            for layer in network.layers
        )
        return _with_network(case, right, network.clone(layers=layers))

    return plant


def in_jax_class(network_class: type[AlexNet]) -> Callable[[Case, Programs], Programs]:
    """A fault in a method of the JAX network: a subclass of `AlexNet` stands in for it."""

    def plant(case: Case, right: Programs) -> Programs:
        network = right[0].network
        return _with_network(case, right, network_class(network.layers, network.num_classes, network.width))

    return plant


class Altered:
    """A Flax network whose parameters are altered on the way in."""

    def __init__(self, network: Any, params: Any):
        self._network, self._params = network, params
        self.layers, self.num_classes = network.layers, network.num_classes

    def apply(self, variables: Any, *args: Any, **kwargs: Any) -> Any:
        return self._network.apply({"params": self._params(variables["params"])}, *args, **kwargs)


def in_jax_network(params: Any) -> Callable[[Case, Programs], Programs]:
    """A fault in the JAX network's parameters: see `Altered`."""
    return lambda case, right: _with_network(case, right, Altered(right[0].network, params))


def _with_network(case: Case, right: Programs, network: Any) -> Programs:
    return dataclasses.replace(right[0], network=network, side=networks.jax_side(case, network)), right[1]
