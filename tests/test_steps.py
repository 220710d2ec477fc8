"""The training step against hand calculation, and the ways of running it against each other."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalex import models
from jaxalex.data import ImageSet
from jaxalex.errors import RunError
from jaxalex.training import epochs, optim, placement, steps
from jaxalex.training.state import TrainState, create_train_state

HALF = np.full(3, 0.5, np.float32)


@functools.cache
def _fresh(precision: str) -> TrainState:
    model = models.build("cifar10", width=0.05, init="flax", precision=precision)
    return create_train_state(model, optim.sgd(0.01, 0.9), jax.random.key(0), (16, 24, 3), HALF, HALF)


def _state(precision: str = "float32") -> TrainState:
    """A fresh state each time, since a step takes its buffers away, but one network and optimizer: no recompiling."""
    return jax.tree.map(jnp.copy, _fresh(precision))


def _images(size: int) -> ImageSet:
    rng = np.random.default_rng(size)
    images = rng.integers(0, 256, (size, 16, 24, 3), dtype=np.uint8)
    return ImageSet(images, rng.integers(0, 10, size, dtype=np.int32))


def _batch(images: ImageSet, mask: list[float] | None = None) -> steps.Batch:
    mask_array = np.ones(len(images), np.float32) if mask is None else np.array(mask, np.float32)
    return {"image": images.images, "label": images.labels, "mask": mask_array}


def _assert_same(actual: object, expected: object, tolerance: float = 0.0) -> None:
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


class _Linear(nn.Module):
    """Logits [w0·x, w1·x] of the first pixel's first channel: small enough for a hand calculation."""

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        weight = self.param("weight", nn.initializers.zeros, (2,))
        return images[:, 0, 0, :1] * weight[None]


def test_two_steps_by_hand() -> None:
    """Cross-entropy of two classes, SGD with momentum: every number by hand."""
    state = create_train_state(_Linear(), optim.sgd(0.1, 0.5), jax.random.key(0), (1, 1, 1), np.zeros(1), np.ones(1))
    # Pixels 255 and 0 become x = 1 and x = 0; the third sample is padding.
    batch = {
        "image": np.array([255, 0, 255], np.uint8).reshape(3, 1, 1, 1),
        "label": np.array([0, 1, 1], np.int32),
        "mask": np.array([1, 1, 0], np.float32),
    }
    key = jax.random.key(0)
    state, metrics = steps.train_step(state, batch, key)
    assert float(metrics["loss"]) == pytest.approx(2 * np.log(2))
    # Ties go to class 0: right for the first sample, wrong for the second.
    assert (float(metrics["correct"]), float(metrics["count"])) == (1, 2)
    # Gradient of the mean: (softmax - onehot)·x / 2 = (-0.25, 0.25); the step is -0.1 of it.
    np.testing.assert_allclose(state.params["weight"], [0.025, -0.025], rtol=1e-6)
    state, _ = steps.train_step(state, batch, key)
    # softmax of ±0.025 is 1 / (1 + e^-0.05) = 0.5124974; gradient -(1 - 0.5124974) / 2 = -0.2437513;
    # velocity -0.25·0.5 - 0.2437513 = -0.3687513.
    np.testing.assert_allclose(state.params["weight"], [0.06187513, -0.06187513], rtol=1e-6)
    assert int(state.step) == 2


def test_the_step_is_pure_and_donates_its_state() -> None:
    batch, key = _batch(_images(4)), jax.random.key(1)
    first, metrics = steps.train_step(_state(), batch, key)
    second, again = steps.train_step(_state(), batch, key)
    _assert_same((first.params, first.opt_state, metrics), (second.params, second.opt_state, again))
    given = _state()
    steps.train_step(given, batch, key)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(given.params))


def test_dropout_changes_from_step_to_step_and_with_the_key() -> None:
    batch = _batch(_images(4))

    def loss(step: int, seed: int) -> float:
        state = _state().replace(step=jnp.int32(step))
        return float(steps.train_step(state, batch, jax.random.key(seed))[1]["loss"])

    assert loss(0, 0) == loss(0, 0)
    assert len({loss(0, 0), loss(1, 0), loss(0, 1)}) == 3


def test_padding_changes_nothing() -> None:
    """A padded batch has the metrics and the gradient of the batch without padding."""
    images = _images(5)
    padded = ImageSet(images.images[[0, 1, 2, 0, 1]], images.labels)
    model = models.build("cifar10", width=0.05, init="flax")
    state = _state().replace(
        # Without dropout, whose draw depends on the size of the batch.
        apply_fn=lambda variables, x, train=False, rngs=None: model.apply(variables, x)
    )
    other = jax.tree.map(jnp.copy, state)
    key = jax.random.key(0)
    three, metrics = steps.train_step(state, _batch(images.take(np.arange(3))), key)
    masked, masked_metrics = steps.train_step(other, _batch(padded, [1, 1, 1, 0, 0]), key)
    _assert_same(metrics, masked_metrics, 1e-6)
    _assert_same(three.params, masked.params, 1e-6)


def test_an_epoch_in_one_dispatch_is_its_steps_one_by_one() -> None:
    images, key = _images(10), jax.random.key(3)
    placed = placement.place(images, placement.on_device(jax.devices("cpu")[0]))
    indices = epochs.epoch_indices(10, 4, seed=0, epoch=1)
    assert indices.shape == (3, 4)
    at_once, metrics = steps.train_epoch(_state(), placed.data, indices, key)
    state, total = _state(), {"loss": 0.0, "correct": 0.0, "count": 0.0, "finite": 0.0}
    for row in indices:
        batch = _batch(images.take(np.maximum(row, 0)), [float(index >= 0) for index in row])
        state, one = steps.train_step(state, batch, key)
        total = {name: total[name] + float(one[name]) for name in total}
    _assert_same(at_once.params, state.params, 1e-6)
    _assert_same(metrics, total, 1e-5)
    assert float(metrics["count"]) == 10


def test_the_loop_runs_that_epoch_and_compiles_once() -> None:
    images, key = _images(10), jax.random.key(3)
    placed = placement.place(images, placement.on_device(jax.devices("cpu")[0]))
    compiled = epochs.compile_epoch(_state(), placed, 4, key)
    expected, metrics = steps.train_epoch(_state(), placed.data, epochs.epoch_indices(10, 4, 0, 1), key)
    events: list[str] = []

    def listen(event: str, seconds: float, **_: object) -> None:
        events.append(event)

    state, result = epochs.train_one_epoch(compiled, _state(), placed, epochs.epoch_indices(10, 4, 0, 1), key)
    epochs.evaluate(state, placed)
    _assert_same(state.params, expected.params, 1e-6)
    assert result.loss == pytest.approx(float(metrics["loss"]) / 10, rel=1e-5)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        for epoch in (2, 3):
            indices = epochs.epoch_indices(10, 4, 0, epoch)
            state, _ = epochs.train_one_epoch(compiled, state, placed, indices, key)
            epochs.evaluate(state, placed)
        assert not [event for event in events if "compile" in event]
        jax.jit(lambda x: x * 3 + 1)(np.arange(7.0))
        assert [event for event in events if "compile" in event], "the listener hears a compilation"
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def test_evaluation_counts_every_sample_once() -> None:
    size = epochs.EVAL_BATCH_SIZE + 7
    images, state = _images(size), _state()
    result = epochs.evaluate(state, placement.place(images, placement.on_device(jax.devices("cpu")[0])))
    assert result.logits.shape == (size, 10)
    x = images.images / 255 * 2 - 1  # (x - 0.5) / 0.5
    logits = np.asarray(state.apply_fn({"params": state.params}, jnp.asarray(x, jnp.float32)), np.float64)
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(size), images.labels]
    assert result.loss == pytest.approx(losses.mean(), rel=1e-5)
    assert result.accuracy == pytest.approx(100 * (logits.argmax(axis=1) == images.labels).mean())


def test_every_epoch_sees_every_sample_once_in_another_order() -> None:
    first, second = (epochs.epoch_indices(1149, 32, seed=5, epoch=epoch) for epoch in (1, 2))
    assert first.shape == (36, 32)
    for indices in (first, second):
        assert np.array_equal(np.sort(indices[indices >= 0]), np.arange(1149))
        assert (indices < 0).sum() == 3
    assert not np.array_equal(first, second)
    assert np.array_equal(first, epochs.epoch_indices(1149, 32, seed=5, epoch=1))


def test_a_loss_that_is_not_finite_stops_at_its_step() -> None:
    images, key = _images(12), jax.random.key(0)
    placed = placement.place(images, placement.on_device(jax.devices("cpu")[0]))
    compiled = epochs.compile_epoch(_state(), placed, 4, key)
    bad = _state()
    bad = bad.replace(params=jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), bad.params))
    with pytest.raises(RunError, match=r"the loss is nan at step 1 of 3 \(epoch 7\)"):
        epochs.train_one_epoch(compiled, bad, placed, epochs.epoch_indices(12, 4, 0, 1), key, "epoch 7")


def test_normalize() -> None:
    images = np.array([[0, 51, 255]], np.uint8)
    mean, std = np.array([0.5, 0.2, 0.0], np.float32), np.array([0.5, 0.1, 2.0], np.float32)
    np.testing.assert_allclose(steps.normalize(images, mean, std), [[-1.0, 0.0, 0.5]], atol=1e-7)


def test_images_of_another_size_are_resized() -> None:
    """By hand: doubled in width with pixel centres aligned, a step from 0 to 1 passes through 1/4 and 3/4."""
    state = _state().replace(image_hw=(1, 4), mean=jnp.zeros(1), std=jnp.ones(1))
    out = steps.network_input(state, jnp.array([0, 255], jnp.uint8).reshape(1, 1, 2, 1))
    np.testing.assert_allclose(out[0, 0, :, 0], [0.0, 0.25, 0.75, 1.0], atol=1e-6)


def test_bfloat16_keeps_float32_weights_and_metrics() -> None:
    state, metrics = steps.train_step(_state("bfloat16"), _batch(_images(4)), jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves((state.params, metrics))} == {jnp.dtype("float32")}
