"""Training and evaluation steps: pure functions of the state, jitted once.

A batch is a dict of ``image`` (uint8 ``[batch, height, width, channel]``), ``label`` (int32 ``[batch]``) and
``mask`` (float32 ``[batch]``, 1 for a sample and 0 for padding); where pictures are augmented, it also has ``index``
(int32 ``[batch]``), the samples' numbers in the training set. Metrics are sums over the samples that count:
``loss``, ``correct`` and ``count``, float32 scalars, so that no mean is ever taken of means. Training adds ``finite``:
how many steps came, before the first one that did not, with a finite loss and gradient.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxalex.networks.shapes import Array, Bool, Float, Float32, Int32, Key, UInt8
from jaxalex.training import augment
from jaxalex.training.state import TrainState

Batch = dict[str, Array]
Metrics = dict[str, Float[Array, ""]]


def normalize(
    images: UInt8[Array | np.ndarray, "*rest channel"],
    mean: Float[Array | np.ndarray, " channel"],
    std: Float[Array | np.ndarray, " channel"],
) -> Float32[Array, "*rest channel"]:
    """``(image / 255 - mean) / std`` by channel: uint8 ``[…, channel]`` to float32 of the same shape."""
    scale, shift = jnp.broadcast_arrays(1 / std, mean)
    shape = (1,) * (images.ndim - 1) + (-1,)
    pixels = images.astype(jnp.float32) / 255
    return jnp.asarray(pixels - shift.reshape(shape)) * scale.reshape(shape)


def network_input(
    state: TrainState, images: UInt8[Array, "batch height width channel"]
) -> Float32[Array, "batch {state.image_hw[0]} {state.image_hw[1]} channel"]:
    """Normalised images in the size that the network takes: uint8 ``[b, h, w, c]`` to float32.

    Another size is resized bilinearly, as the paper network needs it for CIFAR-10's 32x32 (224x224). With
    ``state.central_crop`` the central part of a larger image is taken instead.
    """
    if state.central_crop:
        images = augment.central(images, state.image_hw)
    return _resized(normalize(images, state.mean, state.std), state.image_hw)


def _resized(
    x: Float32[Array, "batch height width channel"], hw: tuple[int, int]
) -> Float32[Array, "batch h w channel"]:
    if x.shape[1:3] != hw:
        x = jax.image.resize(x, (x.shape[0], *hw, x.shape[3]), "bilinear")
    return x


def training_input(
    state: TrainState, batch: Batch, key: Key[Array, ""]
) -> Float32[Array, "batch {state.image_hw[0]} {state.image_hw[1]} channel"]:
    """`network_input` of a batch, augmented if the state says so (Krizhevsky et al. 2012, section 4.1).

    A sample's picture depends on the key, the step and the sample's ``index``, and on nothing else of the batch.
    """
    if state.colour_basis is None:
        return network_input(state, batch["image"])
    images = batch["image"]
    stored_hw, basis = images.shape[1:3], state.colour_basis
    last, patch_hw = augment.margin(stored_hw, state.image_hw), augment.patch_size(stored_hw, state.image_hw)
    corner, mirrored, alpha = augment.draw(key, state.step, batch["index"], last, len(basis))
    patches = augment.crop(augment.with_border(images, state.image_hw), corner, mirrored, patch_hw)
    shift = jnp.dot(alpha, basis / state.std[None], precision=jax.lax.Precision.HIGHEST)
    return network_input(state, patches) + shift[:, None, None]


def summed_metrics(
    logits: Float[Array, "batch classes"], label: Int32[Array, " batch"], mask: Float32[Array, " batch"]
) -> Metrics:
    """Cross-entropy and correct predictions, summed over the samples that count.

    Args:
      logits: ``[batch, classes]``, not probabilities.
      label: int32 ``[batch]``.
      mask: ``[batch]``, 1 or 0.
    """
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, label)
    correct = jnp.argmax(logits, axis=-1) == label
    return {"loss": jnp.sum(loss * mask), "correct": jnp.sum(correct * mask), "count": jnp.sum(mask)}


def all_finite(tree: Any) -> Bool[Array, ""]:
    """Whether every number in a tree of arrays is finite: a bool scalar."""
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


def finite_norm(tree: Any) -> Bool[Array, ""]:
    """Whether the square of a tree's Euclidean norm is finite, and so every number in it: a bool scalar.

    One dot product an array: asking every number took 25 ms instead of 4 on the CPU, for the dense kernels' gradients.
    """
    return jnp.isfinite(sum(jnp.vdot(leaf, leaf) for leaf in jax.tree.leaves(tree)))


def _train_step(
    state: TrainState, batch: Batch, key: Key[Array, ""], skip_nonfinite: bool = False
) -> tuple[TrainState, Metrics]:
    images = training_input(state, batch, key)
    dropout_key = jax.random.fold_in(key, state.step)

    def mean_loss(params: Any) -> tuple[Float[Array, ""], Metrics]:
        logits = state.apply_fn({"params": params}, images, train=True, rngs={"dropout": dropout_key})
        metrics = summed_metrics(logits, batch["label"], batch["mask"])
        return metrics["loss"] / jnp.maximum(metrics["count"], 1), metrics  # of unreadable pictures none may be left

    grads, metrics = jax.grad(mean_loss, has_aux=True)(state.params)
    finite = jnp.isfinite(metrics["loss"]) & finite_norm(grads)
    updates, opt_state = state.tx.update(grads, state.opt_state, state.params)
    # So the parameters wait for the whole gradient, and XLA knows that it may write the new ones over the old: else it
    # first makes a copy of each dense kernel, a quarter of a step's time at batch 1.
    updates = jax.tree.map(lambda update: jnp.where(finite, update, 0), updates)
    params = optax.apply_updates(state.params, updates)
    new = state.replace(step=state.step + 1, params=params, opt_state=opt_state)
    if skip_nonfinite:  # all but the step number stays as it was
        new = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, state.replace(step=new.step))
        metrics = {name: jnp.where(finite, value, 0) for name, value in metrics.items()}
    return new, metrics | {"finite": finite.astype(jnp.float32)}


@functools.partial(jax.jit, donate_argnames="state")
def train_step(state: TrainState, batch: Batch, key: Key[Array, ""]) -> tuple[TrainState, Metrics]:
    """One step of training on one batch; the loss that is minimised is the mean over the batch's samples.

    Args:
      state: given up to the result (donated).
      batch: at least one sample must count.
      key: the run's dropout key, the same for every step: the step number is folded in here.

    Returns:
      the next state, and the metrics of this batch before the update.
    """
    return _train_step(state, batch, key)


def gather(data: Batch, indices: Int32[Array, " batch"]) -> Batch:
    """The batch at ``indices`` (int32 ``[batch]``, -1 for padding) of ``data``.

    Args:
      data: ``image`` and ``label``; where it is a part of the data set also ``index``, its samples' numbers in the set.
    """
    clipped = jnp.maximum(indices, 0)
    mask = (indices >= 0).astype(jnp.float32)
    index = data["index"][clipped] if "index" in data else clipped
    return {"image": data["image"][clipped], "label": data["label"][clipped], "mask": mask, "index": index}


@functools.partial(jax.jit, donate_argnames="state", static_argnames="skip_nonfinite")
def train_epoch(
    state: TrainState,
    data: Batch,
    indices: Int32[Array, "steps batch"],
    key: Key[Array, ""],
    skip_nonfinite: bool = False,
) -> tuple[TrainState, Metrics]:
    """As many training steps in one dispatch as ``indices`` has rows.

    Args:
      state: given up to the result (donated).
      data: the training set, or what ``indices`` need of it, on the device: see `gather`.
      indices: int32 ``[steps, batch]``: which samples each step sees, -1 for padding.
      key: as in `train_step`.
      skip_nonfinite: a step whose loss or gradient is not finite changes nothing but the step number, and counts
        for nothing in the metrics.

    Returns:
      the state after the last step, and the metrics summed over all steps (with ``skip_nonfinite``, ``finite`` too).
    """
    if indices.shape[0] == 1:  # without a loop around it XLA schedules the step better
        return _train_step(state, gather(data, indices[0]), key, skip_nonfinite)

    def body(state: TrainState, row: Int32[Array, " batch"]) -> tuple[TrainState, Metrics]:
        return _train_step(state, gather(data, row), key, skip_nonfinite)

    state, metrics = jax.lax.scan(body, state, indices)
    if not skip_nonfinite:
        metrics["finite"] = jnp.cumprod(metrics["finite"])  # the first that is not ends the count
    return state, jax.tree.map(jnp.sum, metrics)


@jax.jit
def eval_step(
    state: TrainState, data: Batch, indices: Int32[Array, " batch"]
) -> tuple[Metrics, Float[Array, "batch classes"]]:
    """Metrics and logits of the samples at ``indices`` (int32 ``[batch]``, -1 for padding), without dropout."""
    batch = gather(data, indices)
    logits = state.apply_fn({"params": state.params}, network_input(state, batch["image"]))
    return summed_metrics(logits, batch["label"], batch["mask"]), logits


@jax.jit
def eval_ten_crops_step(
    state: TrainState, data: Batch, indices: Int32[Array, " batch"]
) -> tuple[Metrics, Float[Array, "batch classes"]]:
    """As `eval_step`, by ten-crop testing: probabilities averaged over ten patches (Krizhevsky et al. 2012, 4.1).

    The patches are cut as in training with augmentation. A state without it sees whole images, resized; there they are
    cut from these.

    Returns:
      metrics, and the logarithms of the averaged probabilities: logits as good as any, since their softmax is these.
    """
    batch = gather(data, indices)
    x = normalize(batch["image"], state.mean, state.std)
    if not state.central_crop:
        x = _resized(x, state.image_hw)
    patch_hw, last = (rule(x.shape[1:3], state.image_hw) for rule in (augment.patch_size, augment.margin))
    x = augment.with_border(x, state.image_hw)

    def log_probabilities(view: tuple[Array, Array]) -> Array:
        corner, mirrored = (jnp.broadcast_to(part, (x.shape[0], *part.shape)) for part in view)
        patches = _resized(augment.crop(x, corner, mirrored, patch_hw), state.image_hw)
        return jax.nn.log_softmax(state.apply_fn({"params": state.params}, patches))

    # One after the other: ten times the activations at once might not fit.
    each = jax.lax.map(log_probabilities, tuple(map(jnp.asarray, augment.ten_views(last))))
    logits = jax.nn.logsumexp(each, axis=0) - jnp.log(float(len(each)))
    return summed_metrics(logits, batch["label"], batch["mask"]), logits
