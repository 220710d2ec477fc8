"""What a planted fault is: one value that says where a mistake is made and how."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import nn

from jaxalex.networks.rows import Flatten
from jaxalex.networks.tables import NETWORKS
from parity_tests.alexnet.networks import Case, torch_module
from parity_tests.alexnet.programs import JaxProgram, TorchProgram
from torch_ref import models as torch_models

Programs = tuple[JaxProgram, TorchProgram]


class Plant(Protocol):
    """Where and how a mistake is made."""

    @property
    def side(self) -> str:
        """``"jax"`` or ``"torch"``."""

    def __call__(self, case: Case, right: Programs) -> Programs:
        """The two programs with the mistake in one of them; ``right`` is left as it is."""


@dataclasses.dataclass(frozen=True)
class Fault:
    """A mistake that changes something.

    Attributes:
      name: what was done.
      trap: the kind of mistake, for grouping.
      stage: where a right check finds it first.
      plant: where and how it is made.
      models: the networks it is planted in.
      image_hw: where the bench's image size hides it, as the published one does, one that shows it.
    """

    name: str
    trap: str
    stage: str
    plant: Plant
    models: tuple[str, ...] = tuple(NETWORKS)
    image_hw: tuple[int, int] | None = None


@dataclasses.dataclass(frozen=True)
class InTorch:
    """Other pieces in the PyTorch program: ``InTorch({"statistics": …})``."""

    pieces: Mapping[str, Any]
    side = "torch"

    def __call__(self, case: Case, right: Programs) -> Programs:
        return right[0], dataclasses.replace(right[1], **self.pieces)


@dataclasses.dataclass(frozen=True)
class InJax:
    """Other pieces in the JAX program: ``InJax({"sgd": …})``."""

    pieces: Mapping[str, Any]
    side = "jax"

    def __call__(self, case: Case, right: Programs) -> Programs:
        return dataclasses.replace(right[0], **self.pieces), right[1]


@dataclasses.dataclass(frozen=True)
class InTorchLoss:
    """Another loss in the PyTorch program: ``(logits, labels) -> scalar``."""

    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    side = "torch"

    def __call__(self, case: Case, right: Programs) -> Programs:
        return right[0], _with_side(right[1], loss=self.loss)


@dataclasses.dataclass(frozen=True)
class InModule:
    """A change made in place to a PyTorch network of its own.

    Attributes:
      change: what is done to the network.
      usual: the stages that lie as usual after it, and not as the right network's.
    """

    change: Callable[[Any], None]
    usual: tuple[str, ...] = ()
    side = "torch"

    def __call__(self, case: Case, right: Programs) -> Programs:
        module = torch_module(case)
        self.change(module)
        layouts = {stage: lies for stage, lies in right[1].side.layouts.items() if stage not in self.usual}
        return right[0], _with_side(right[1], module=module, layouts=layouts)


def layer_of(network: nn.Module, stage: str) -> Any:
    """The layer of a PyTorch network whose output is a stage, wherever the network keeps it."""
    return network.get_submodule(torch_models.stages(network)[stage])


def own_forward(layer: Any, forward: Callable[..., torch.Tensor]) -> None:
    """Has a module compute ``forward(module, x)`` in place of its class's."""
    # A class of its own, not an attribute: a copy of the layer then computes with the copy's weights.
    layer.__class__ = type(type(layer).__name__, (type(layer),), {"forward": forward})


def _with_side(right: TorchProgram, **changes: Any) -> TorchProgram:
    return dataclasses.replace(right, side=dataclasses.replace(right.side, **changes))


@dataclasses.dataclass(frozen=True)
class InLayer:
    """The layer of one stage of the PyTorch network (``"conv2"``) with ``forward(module, x)`` in place of its own."""

    stage: str
    forward: Callable[[Any, torch.Tensor], torch.Tensor]
    side = "torch"

    def __call__(self, case: Case, right: Programs) -> Programs:
        return InModule(self._change)(case, right)

    def _change(self, network: nn.Module) -> None:
        own_forward(layer_of(network, self.stage), self.forward)


@dataclasses.dataclass(frozen=True)
class InTable:
    """Rows of the JAX network's table changed: ``InTable({"conv1": {"padding": 0}})``."""

    rows: Mapping[str, Mapping[str, Any]]
    side = "jax"

    def __call__(self, case: Case, right: Programs) -> Programs:
        network = right[0].network
        layers = tuple(
            row if isinstance(row, Flatten) else dataclasses.replace(row, **self.rows.get(row.name, {}))
            for row in network.layers
        )
        return dataclasses.replace(right[0], network=network.clone(layers=layers)), right[1]


@dataclasses.dataclass(frozen=True)
class InNetwork:
    """What stands in for the JAX network: ``change(network)`` gives something with the same ``apply``."""

    change: Callable[[Any], Any]
    side = "jax"

    def __call__(self, case: Case, right: Programs) -> Programs:
        return dataclasses.replace(right[0], network=self.change(right[0].network)), right[1]
