"""Augmentation as in the 2012 paper: against NumPy, by its statistics, and what it must not depend on."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalex.training import augment, optim, steps
from jaxalex.training.state import TrainState, create_train_state

KEY = jax.random.key(7)
HALF = np.full(3, 0.5, np.float32)


def _images(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(0, 256, shape, dtype=np.uint8)


class _Linear(nn.Module):
    """Ten logits from all pixels of an image: no layer more than a test of its input needs."""

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        return nn.Dense(10)(images.reshape(len(images), -1))


def _state(image_hw: tuple[int, int], basis: np.ndarray | None) -> TrainState:
    return create_train_state(_Linear(), optim.sgd(0.1), KEY, (*image_hw, 3), HALF, HALF, basis)


_training_input = jax.jit(steps.training_input)


def test_crops_at_given_places() -> None:
    images = _images(4, 12, 17, 3)
    corner, mirrored = np.array([[0, 0], [4, 6], [1, 5], [4, 0]]), np.array([False, True, False, True])
    found = augment.crop(jnp.asarray(images), jnp.asarray(corner), jnp.asarray(mirrored), (8, 11))
    for image, (top, left), mirror, patch in zip(images, corner, mirrored, found, strict=True):
        expected = image[top : top + 8, left : left + 11]
        np.testing.assert_array_equal(patch, expected[:, ::-1] if mirror else expected)


def test_a_border_where_the_picture_is_no_larger() -> None:
    """32x32 of CIFAR-10: NumPy's reflection, 4 pixels on each side, and none where there is room already."""
    images = _images(2, 32, 40, 3)
    np.testing.assert_array_equal(
        augment.with_border(jnp.asarray(images), (32, 32)),
        np.pad(images, ((0, 0), (4, 4), (0, 0), (0, 0)), mode="reflect"),
    )
    assert augment.margin((32, 40), (32, 32)) == (8, 8)
    assert augment.margin((256, 256), (224, 224)) == (32, 32)


def test_every_place_and_both_mirror_images_are_as_likely() -> None:
    draws = augment.draw(KEY, jnp.int32(3), jnp.arange(20_000, dtype=jnp.int32), (32, 32), 3)
    corner, mirrored, alpha = map(np.asarray, draws)
    assert set(corner[:, 0]) == set(corner[:, 1]) == set(range(33))
    # Deviations of means: 33 places have deviation 9.52, so 0.07 here; five of them.
    np.testing.assert_allclose(corner.mean(axis=0), 16, atol=0.35)
    assert abs(np.corrcoef(corner.T)[0, 1]) < 0.04
    assert mirrored.mean() == pytest.approx(0.5, abs=0.02)
    np.testing.assert_allclose(alpha.std(axis=0), 0.1, rtol=0.03)
    np.testing.assert_allclose(alpha.mean(axis=0), 0, atol=0.004)
    np.testing.assert_allclose(np.corrcoef(alpha.T), np.eye(3), atol=0.04)


def test_colour_basis_against_the_singular_values() -> None:
    """Another way to the same: the SVD of the centred pixels."""
    images = _images(600, 5, 7, 3)
    images[..., 1] = images[..., 0] // 2 + images[..., 1] // 4  # so that the channels go together
    pixels = images.reshape(-1, 3) / 255
    _, singular, components = np.linalg.svd(pixels - pixels.mean(axis=0), full_matrices=False)
    basis = augment.colour_basis(images)
    np.testing.assert_allclose(np.linalg.norm(basis, axis=1), singular**2 / len(pixels), rtol=1e-10)
    cosines = (basis * components).sum(axis=1) / np.linalg.norm(basis, axis=1)
    np.testing.assert_allclose(np.abs(cosines), 1, rtol=1e-10)
    assert (basis[np.arange(3), np.abs(basis).argmax(axis=1)] > 0).all()


def test_the_training_input_by_numpy() -> None:
    """Crop, mirror image, colour shift and normalisation, from the draws: 24x20 of a stored 28x31."""
    images, index = _images(6, 28, 31, 3), np.array([5, 0, 9, 3, 3, 700], np.int32)
    basis = np.array([[0.2, 0.1, 0.3], [0.02, -0.05, 0.01], [0.001, 0.002, -0.003]])
    state = _state((24, 20), basis).replace(step=jnp.int32(11), std=jnp.array([0.5, 0.25, 0.2]))
    batch = {"image": images, "index": index, "label": index, "mask": np.ones(6, np.float32)}
    found = _training_input(state, jax.tree.map(jnp.asarray, batch), KEY)
    corner, mirrored, alpha = map(np.asarray, augment.draw(KEY, jnp.int32(11), jnp.asarray(index), (4, 11), 3))
    for n in range(6):
        top, left = corner[n]
        patch = images[n, top : top + 24, left : left + 20] / 255
        patch = (patch[:, ::-1] if mirrored[n] else patch) + alpha[n] @ basis
        np.testing.assert_allclose(found[n], (patch - 0.5) / [0.5, 0.25, 0.2], atol=2e-6)
    assert mirrored.any()
    assert not mirrored.all()


def test_a_picture_depends_on_key_step_and_sample_only() -> None:
    data = {"image": jnp.asarray(_images(9, 32, 32, 3)), "label": jnp.zeros(9, jnp.int32)}
    state = _state((32, 32), np.eye(3))

    def pictures(indices: list[int], step: int, key: jax.Array = KEY) -> dict[int, np.ndarray]:
        batch = steps.gather(data, jnp.array(indices, jnp.int32))
        found = np.asarray(_training_input(state.replace(step=jnp.int32(step)), batch, key))
        return {index: picture for index, picture in zip(indices, found, strict=True) if index >= 0}

    first, other = pictures([0, 1, 2, 3, 4, 5, 6, 7, 8], 4), pictures([8, 3, -1, 5, -1], 4)
    for index, picture in other.items():
        np.testing.assert_array_equal(picture, first[index])
    for another in (pictures([0, 1, 2, 3], 5), pictures([0, 1, 2, 3], 4, jax.random.key(8))):
        assert all((another[index] != first[index]).any() for index in another)
    # And each sample has draws of its own: alpha is continuous, so that no two agree.
    alpha = augment.draw(KEY, jnp.int32(4), jnp.arange(9, dtype=jnp.int32), (8, 8), 3).alpha
    assert len(np.unique(np.asarray(alpha))) == 27


def test_evaluation_sees_the_central_part() -> None:
    images = _images(2, 25, 40, 3)
    state = _state((20, 32), np.zeros((3, 3)))
    expected = (images[:, 2:22, 4:36] / 255 - 0.5) / 0.5
    np.testing.assert_allclose(steps.network_input(state, jnp.asarray(images)), expected, atol=1e-6)
    whole = steps.network_input(_state((20, 32), None), jnp.asarray(images))
    assert whole.shape == (2, 20, 32, 3)
    assert np.abs(np.asarray(whole) - expected).max() > 0.1, "without augmentation the whole is resized"


@pytest.mark.parametrize(("stored", "patches"), [((20, 22), (4, 6)), ((16, 16), (8, 8))])
def test_ten_crops_by_numpy(stored: tuple[int, int], patches: tuple[int, int]) -> None:
    """Ten views of each picture through the network one by one, their probabilities averaged."""
    images, labels = _images(5, *stored, 3), np.array([0, 1, 2, 3, 9], np.int32)
    state = _state((16, 16), np.zeros((3, 3)))
    indices = np.array([0, 1, 2, 3, 4, -1], np.int32)
    metrics, logits = steps.eval_ten_crops_step(state, {"image": images, "label": labels}, indices)

    bordered = images if stored != (16, 16) else np.pad(images, ((0, 0), (4, 4), (4, 4), (0, 0)), mode="reflect")
    (down, right), views = patches, []
    for top, left in [(0, 0), (0, right), (down, 0), (down, right), (down // 2, right // 2)]:
        patch = bordered[:, top : top + 16, left : left + 16]
        views += [patch, patch[:, :, ::-1]]
    x = np.concatenate(views).astype(np.float32) / 255 * 2 - 1
    each = np.asarray(state.apply_fn({"params": state.params}, jnp.asarray(x)), np.float64).reshape(10, 5, 10)
    probabilities = (np.exp(each) / np.exp(each).sum(axis=2, keepdims=True)).mean(axis=0)
    np.testing.assert_allclose(np.exp(logits[:5]), probabilities, rtol=1e-5)
    assert float(metrics["loss"]) == pytest.approx(-np.log(probabilities[np.arange(5), labels]).sum(), rel=1e-5)
    assert float(metrics["correct"]) == (probabilities.argmax(axis=1) == labels).sum()
    assert float(metrics["count"]) == 5
    assert np.abs(each.std(axis=0)).max() > 1e-4, "the views differ"
