"""The state that training carries from step to step."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from flax.training import train_state

from jaxalex.data.stats import channel_statistics, normalization
from jaxalex.networks.alexnet import AlexNet


class TrainState(train_state.TrainState):
    """Flax's TrainState (step, params, opt_state, apply_fn, tx), and what the network expects of its images.

    Attributes:
      mean, std: float32 ``[channel]``, for pixels scaled to 0..1.
      image_hw: height and width; images of another size are resized in the step.
      central_crop: of an image that is larger than `image_hw` the central part is taken instead.
      colour_basis: float32 ``[component, channel]`` from `jaxalex.training.augment.colour_basis`: training pictures are
        cropped, mirrored and shifted in colour as in the 2012 paper. None: they are taken as they are.
    """

    mean: jax.Array
    std: jax.Array
    image_hw: tuple[int, int] = struct.field(pytree_node=False)
    central_crop: bool = struct.field(pytree_node=False, default=False)
    colour_basis: jax.Array | None = None


def input_scale(name: str, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation for the normalisation ``(x / 255 - mean) / std``.

    Args:
      name: ``"mean"``, the training set's mean per channel is subtracted and the scale of 255 stays; else as in
        `jaxalex.data.stats.normalization`.
      images: the training images, uint8 ``[n, height, width, channel]``.

    Returns:
      ``(mean, std)``: float32 ``[channel]`` each.

    Raises:
      UsageError: as in `jaxalex.data.stats.normalization`.

    >>> input_scale("mean", np.full((1, 2, 2, 1), 51, np.uint8))[1] * 255
    array([1.], dtype=float32)
    """
    if name != "mean":
        return normalization(name, images)
    mean, _ = channel_statistics(images)
    return mean.astype(np.float32), np.full(len(mean), 1 / 255, np.float32)


def create_train_state(
    model: AlexNet,
    tx: optax.GradientTransformation,
    key: jax.Array,
    image_shape: tuple[int, int, int],
    mean: np.ndarray,
    std: np.ndarray,
    colour_basis: np.ndarray | None = None,
) -> TrainState:
    """A fresh state at step 0.

    Args:
      model: the network.
      tx: the optimizer.
      key: the random key of the initial parameters.
      image_shape: ``(height, width, channel)`` of the network's input.
      mean, std: ``[channel]``; see `TrainState`.
      colour_basis: ``[component, channel]``; with it, the state augments training pictures and crops the others.

    Raises:
      UsageError: the images are too small for the network.
    """

    def create(key: jax.Array, mean: jax.Array, std: jax.Array, basis: jax.Array | None) -> TrainState:
        params: Any = model.init(key, jnp.zeros((1, *image_shape)))["params"]
        return TrainState.create(
            apply_fn=model.apply,
            params=params,
            tx=tx,
            mean=mean,
            std=std,
            image_hw=image_shape[:2],
            central_crop=basis is not None,
            colour_basis=basis,
        )

    # Compiled as one program, so that the forward pass that Flax traces to learn the shapes is dropped, not run.
    basis = None if colour_basis is None else jnp.asarray(colour_basis, jnp.float32)
    state = jax.jit(create)(key, jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32), basis)
    return state.replace(step=jnp.zeros((), jnp.int32))
