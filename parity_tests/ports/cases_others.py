"""Small cases of the ports in Flax NNX and in Equinox: both networks, and inputs for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from torch import nn
from torchvision import models
from torchvision.models import vgg

from parity_tests.ports import equinox_lenet, equinox_vgg, nnx_lenet, nnx_resnet, nnx_vit, torch_modules
from parity_tests.ports.cases import Case


def images(*shape: int) -> Callable[[np.random.Generator], tuple[np.ndarray, ...]]:
    """Draws float32 images of a shape from the normal distribution."""
    return lambda rng: (rng.standard_normal(shape).astype(np.float32),)


def perturbed(tree: Any) -> Any:
    """Every float array of a tree that holds one number only, such as a bias of zeros, moved at random by up to 0.3."""
    rng = np.random.default_rng(0)

    def move(value: Any) -> Any:
        if not eqx.is_inexact_array(value):
            return value
        numbers = np.asarray(value)
        if np.ptp(numbers) > 0:
            return value
        return jnp.asarray(numbers + rng.uniform(-0.3, 0.3, numbers.shape), value.dtype)

    return jax.tree.map(move, tree)


def nnx_perturbed(module: nnx.Module) -> nnx.Module:
    """The module with its parameters and statistics `perturbed`."""
    nnx.update(module, perturbed(nnx.state(module, (nnx.Param, nnx.BatchStat))))
    return module


def small_torch_vgg() -> nn.Module:
    """torchvision's VGG with three convolutions and a narrow classifier."""
    module = models.VGG(vgg.make_layers([8, "M", 16, 16, "M"], batch_norm=True), num_classes=10)
    module.classifier = nn.Sequential(
        nn.Linear(16 * 7 * 7, 32), nn.ReLU(True), nn.Dropout(),
        nn.Linear(32, 32), nn.ReLU(True), nn.Dropout(),
        nn.Linear(32, 10),
    )  # fmt: skip
    return module


def small_equinox_vgg() -> tuple[equinox_vgg.VGG, eqx.nn.State]:
    """The port of `small_torch_vgg`, with its state."""
    make = eqx.nn.make_with_state(equinox_vgg.VGG)
    return perturbed(make((8, "M", 16, 16, "M"), hidden=32, num_classes=10, key=jax.random.key(0)))


SMALL: dict[str, Case] = {
    case.name: case
    for case in (
        Case(
            "nnx_lenet5",
            "nnx",
            torch=lambda: torch_modules.LeNet5(32, 36, padding=0),
            jax=lambda: nnx_perturbed(nnx_lenet.LeNet5(image_size=(32, 36), rngs=nnx.Rngs(0))),
            inputs=images(4, 32, 36, 1),
            num_classes=10,
            source="nnx_lenet.py",
        ),
        Case(
            "nnx_resnet18",
            "nnx",
            torch=lambda: models.resnet18(num_classes=10),
            jax=lambda: nnx_perturbed(nnx_resnet.ResNet(num_classes=10, rngs=nnx.Rngs(0))),
            inputs=images(4, 40, 72, 3),
            num_classes=10,
            source="nnx_resnet.py",
            allow_biased_variance=True,
        ),
        Case(
            "nnx_vit",
            "nnx",
            torch=lambda: models.VisionTransformer(
                image_size=32, patch_size=8, num_layers=2, num_heads=4, hidden_dim=32, mlp_dim=64, dropout=0.1,
                num_classes=10,
            ),
            jax=lambda: nnx_perturbed(
                nnx_vit.VisionTransformer(
                    image_size=32, patch_size=8, num_layers=2, num_heads=4, features=32, mlp_features=64, dropout=0.1,
                    num_classes=10, rngs=nnx.Rngs(0),
                )
            ),
            inputs=images(5, 32, 32, 3),
            num_classes=10,
            source="nnx_vit.py",
        ),
        Case(
            "equinox_lenet5",
            "equinox",
            torch=lambda: torch_modules.LeNet5(32, 36, padding=0),
            jax=lambda: equinox_lenet.LeNet5(image_size=(32, 36), key=jax.random.key(0)),
            inputs=images(4, 1, 32, 36),
            num_classes=10,
            source="equinox_lenet.py",
        ),
        Case(
            "equinox_vgg_bn",
            "equinox",
            torch=small_torch_vgg,
            jax=small_equinox_vgg,
            inputs=images(5, 3, 28, 56),
            num_classes=10,
            source="equinox_vgg.py",
            allow_biased_variance=True,
        ),
    )
}  # fmt: skip
