"""The AlexNets as pairs of sides, and what they are fed."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import traverse_util
from torch import nn

from jaxalex import convert, models
from jaxalex.networks.rows import Dense, Dropout, Flatten, feature_hw
from jaxalex.training import steps
from netparity.graph import ByHand
from netparity.jax_side import JaxSide
from netparity.layouts import Flattened
from netparity.measure import Arrays
from netparity.torch_side import TorchSide
from torch_ref import models as torch_models


@dataclasses.dataclass(frozen=True)
class Case:
    """Which network, how wide, and what it is fed.

    Attributes:
      model: a key of `jaxalex.networks.tables.NETWORKS`.
      width: factor on hidden channels and units.
      batch_size: images in a batch.
      image_hw: height and width; None is the published size.
      num_classes: None is the published number.
      input_channels: of the images.
    """

    model: str
    width: float = 1.0
    batch_size: int = 2
    image_hw: tuple[int, int] | None = None
    num_classes: int | None = None
    input_channels: int = 3

    @property
    def image_shape(self) -> tuple[int, int, int]:
        size = models.NETWORKS[self.model].image_size
        return (*(self.image_hw or (size, size)), self.input_channels)

    @property
    def feature_hw(self) -> tuple[int, int]:
        """Height and width of the feature map that fc1 sees."""
        height, width, _ = self.image_shape
        return feature_hw(models.NETWORKS[self.model].layers, height, width)


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Parameters by common name, images ``[b, h, w, c]`` (both exactly representable in float32), labels ``[b]``."""

    params: Arrays
    images: np.ndarray
    labels: np.ndarray


def jax_network(case: Case) -> models.AlexNet:
    return models.build(case.model, num_classes=case.num_classes, width=case.width)


def mean_loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The loss that `jaxalex.training.steps` minimises: the sum over a batch by the number of its samples."""
    sums = steps.summed_metrics(logits, labels, jnp.ones(labels.shape, jnp.float32))
    return sums["loss"] / sums["count"]


@dataclasses.dataclass(frozen=True)
class Forward:
    """The forward pass of a Flax network in the form that netparity takes; equal ones share compiled programs.

    Attributes:
      network: has Flax's ``apply`` and a table of ``layers``.
      capture: whether to return every intermediate. Without them, as in training, the network may compute its layers
        in another order, and the logits stand in for the intermediates.
    """

    network: Any
    capture: bool = True

    def __call__(self, params: Any, images: jax.Array, key: jax.Array | None) -> tuple[jax.Array, dict[str, jax.Array]]:
        rngs = {} if key is None else {"dropout": key}
        out = self.network.apply({"params": params}, images, train=key is not None, capture=self.capture, rngs=rngs)
        return out if self.capture else (out, {"fc3": out})


def jax_side(network: Any, loss: Any = mean_loss) -> JaxSide:
    """A network of the family, or what stands in for one where a fault is planted, with the product's own loss."""
    dropouts = tuple(row.name for row in network.layers if isinstance(row, Dropout))
    return JaxSide(ByHand(Forward(network)), loss, dropouts, quick=True)


def torch_module(case: Case) -> nn.Module:
    """The reference network; where its feature map is not the published one, fc1 takes what there is."""
    module = torch_models.build(case.model, case.num_classes, case.input_channels, case.width)
    names = convert.torch_names(case.model)
    conv, linear = module.get_submodule(names["conv5"]), module.get_submodule(names["fc1"])
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(linear, nn.Linear)
    height, width = case.feature_hw
    features = height * width * conv.out_channels
    if linear.in_features != features:
        module.set_submodule(names["fc1"], nn.Linear(features, linear.out_features))
    return module


def torch_side(case: Case, device: str = "cpu") -> TorchSide:
    """The reference, with its own loss."""
    feature_hw = case.feature_hw
    module = torch_module(case)
    conv = module.get_submodule(convert.torch_names(case.model)["conv5"])
    assert isinstance(conv, nn.Conv2d)
    # PyTorch flattens its feature map channel by channel; what comes before the first dense layer is in that order.
    rows = itertools.dropwhile(lambda row: not isinstance(row, Flatten), models.NETWORKS[case.model].layers)
    flat_rows = itertools.takewhile(lambda row: not isinstance(row, Dense), itertools.islice(rows, 1, None))
    lies = Flattened((*feature_hw, conv.out_channels))
    return TorchSide(
        module.to(device),
        torch_models.stages(module),
        to_common=lambda arrays: flat(convert.from_torch(arrays, case.model, feature_hw)),
        from_common=lambda params: convert.to_torch(nested(params), case.model, feature_hw),
        device=device,
        layouts={row.name: lies for row in flat_rows if isinstance(row, Dropout)},
    )


def trainable(side: TorchSide, params: Arrays, dtype: str) -> TorchSide:
    """A copy of a side whose module holds ``params`` in ``dtype``, to be trained or evaluated as it is.

    Args:
      side: left as it is; its module may be shared.
      params: by common name.
      dtype: ``"float64"`` or ``"float32"``, of the module.
    """
    module = copy.deepcopy(side.module)
    arrays = {name: torch.from_numpy(np.array(value, dtype)) for name, value in side.from_common(params).items()}
    module.load_state_dict(arrays, assign=True)
    return dataclasses.replace(side, module=module.to(side.device).requires_grad_(True))


def flat(params: convert.Params) -> Arrays:
    """``{"conv1": {"kernel": …}}`` to ``{"conv1.kernel": …}``."""
    return {name: np.asarray(value) for name, value in traverse_util.flatten_dict(params, sep=".").items()}


def nested(params: Arrays) -> convert.Params:
    """The inverse of `flat`."""
    return traverse_util.unflatten_dict(params, sep=".")


def make_inputs(case: Case, seed: int = 0, images: np.ndarray | None = None) -> Inputs:
    """Kernels from N(0, 1/fan_in), biases that are not zero, and a batch.

    Args:
      images: float32 ``[b, h, w, c]``; None draws them from N(0, 1).
    """
    rng = np.random.default_rng(seed)
    network = jax_network(case)
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, *case.image_shape)))["params"]
    params = {}
    for layer, parts in shapes.items():
        for part, array in parts.items():
            scale = 0.1 if part == "bias" else math.prod(array.shape[:-1]) ** -0.5
            params[f"{layer}.{part}"] = np.float32(scale) * rng.standard_normal(array.shape, np.float32)
    if images is None:
        images = rng.standard_normal((case.batch_size, *case.image_shape)).astype(np.float32)
    labels = rng.integers(0, network.num_classes, len(images)).astype(np.int32)
    return Inputs(params, images, labels)
