"""The state that training carries from step to step."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from flax.training import train_state

from jaxalex.networks.alexnet import AlexNet


class TrainState(train_state.TrainState):
    """Flax's TrainState (step, params, opt_state, apply_fn, tx), and what the network expects of its images.

    Attributes:
      mean, std: float32 ``[channel]``, for pixels scaled to 0..1.
      image_hw: height and width; images of another size are resized in the step.
    """

    mean: jax.Array
    std: jax.Array
    image_hw: tuple[int, int] = struct.field(pytree_node=False)


def create_train_state(
    model: AlexNet,
    tx: optax.GradientTransformation,
    key: jax.Array,
    image_shape: tuple[int, int, int],
    mean: np.ndarray,
    std: np.ndarray,
) -> TrainState:
    """A fresh state at step 0.

    Args:
      model: the network.
      tx: the optimizer.
      key: the random key of the initial parameters.
      image_shape: ``(height, width, channel)`` of the network's input.
      mean, std: ``[channel]``; see `TrainState`.

    Raises:
      UsageError: the images are too small for the network.
    """

    def create(key: jax.Array, mean: jax.Array, std: jax.Array) -> TrainState:
        params: Any = model.init(key, jnp.zeros((1, *image_shape)))["params"]
        return TrainState.create(
            apply_fn=model.apply, params=params, tx=tx, mean=mean, std=std, image_hw=image_shape[:2]
        )

    # Compiled as one program, so that the forward pass that Flax traces to learn the shapes is dropped, not run.
    state = jax.jit(create)(key, jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32))
    return state.replace(step=jnp.zeros((), jnp.int32))
