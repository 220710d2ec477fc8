"""VGG with batch normalisation in Equinox, as torchvision has it.

Source: Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", 2014, and
torchvision.models.vgg11_bn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

VGG11: tuple[int | str, ...] = (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M")


class VGG(eqx.Module):
    """One image float ``[3, height, width]`` to logits; VGG-11 by default.

    Call it under ``jax.vmap(..., axis_name="batch")``. The feature map before the classifier is averaged to 7x7; its
    height and width must be multiples of 7, where all definitions of that average agree.
    """

    features: eqx.nn.Sequential
    avgpool: eqx.nn.AdaptiveAvgPool2d
    classifier: eqx.nn.Sequential

    def __init__(
        self, layers: Sequence[int | str] = VGG11, hidden: int = 4096, num_classes: int = 1000, *, key: jax.Array
    ) -> None:
        *conv_keys, key1, key2, key3 = jax.random.split(key, len(layers) + 3)
        features: list[Callable[..., Any]] = []
        channels = 3
        for layer, conv_key in zip(layers, conv_keys, strict=True):
            if isinstance(layer, int):
                features += [
                    eqx.nn.Conv2d(channels, layer, 3, padding=1, key=conv_key),
                    eqx.nn.BatchNorm(layer, axis_name="batch", momentum=0.9, mode="batch"),
                    eqx.nn.Lambda(jax.nn.relu),
                ]
                channels = layer
            else:
                features.append(eqx.nn.MaxPool2d(2, 2))
        self.features = eqx.nn.Sequential(features)
        self.avgpool = eqx.nn.AdaptiveAvgPool2d(7)
        self.classifier = eqx.nn.Sequential(
            [
                eqx.nn.Linear(channels * 7 * 7, hidden, key=key1),
                eqx.nn.Lambda(jax.nn.relu),
                eqx.nn.Dropout(0.5),
                eqx.nn.Linear(hidden, hidden, key=key2),
                eqx.nn.Lambda(jax.nn.relu),
                eqx.nn.Dropout(0.5),
                eqx.nn.Linear(hidden, num_classes, key=key3),
            ]
        )

    def __call__(self, x: jax.Array, state: eqx.nn.State, key: jax.Array | None) -> tuple[jax.Array, eqx.nn.State]:
        x, state = self.features(x, state)
        x = self.avgpool(x)
        x = self.classifier(jnp.ravel(x), key=key)
        return x, state
