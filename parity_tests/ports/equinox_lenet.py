"""LeNet-5 in Equinox.

Source: LeCun et al., "Gradient-Based Learning Applied to Document Recognition", 1998, with plain average pooling and a
linear output layer.
"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp


class LeNet5(eqx.Module):
    """Two convolutions and three dense layers, for one image float ``[1, height, width]``; returns logits."""

    conv1: eqx.nn.Conv2d
    conv2: eqx.nn.Conv2d
    pool: eqx.nn.AvgPool2d
    fc1: eqx.nn.Linear
    fc2: eqx.nn.Linear
    fc3: eqx.nn.Linear

    def __init__(self, num_classes: int = 10, image_size: tuple[int, int] = (32, 32), *, key: jax.Array) -> None:
        keys = jax.random.split(key, 5)
        height, width = ((size // 2 - 2) // 2 - 2 for size in image_size)  # each: a 5x5 convolution, halved
        self.conv1 = eqx.nn.Conv2d(1, 6, 5, key=keys[0])
        self.conv2 = eqx.nn.Conv2d(6, 16, 5, key=keys[1])
        self.pool = eqx.nn.AvgPool2d(2, 2)
        self.fc1 = eqx.nn.Linear(16 * height * width, 120, key=keys[2])
        self.fc2 = eqx.nn.Linear(120, 84, key=keys[3])
        self.fc3 = eqx.nn.Linear(84, num_classes, key=keys[4])

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.pool(jnp.tanh(self.conv1(x)))
        x = self.pool(jnp.tanh(self.conv2(x)))
        x = jnp.ravel(x)
        x = jnp.tanh(self.fc1(x))
        x = jnp.tanh(self.fc2(x))
        return self.fc3(x)
