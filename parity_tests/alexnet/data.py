"""Level 6: normalisation of the same bytes, statistics, split sizes, and metrics over a partial last batch."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import torch

from jaxalex import data as jax_data
from jaxalex.data import ImageSet, Splits
from jaxalex.errors import UsageError
from jaxalex.training import epochs, placement
from jaxalex.training.state import TrainState
from netparity import bounds
from netparity.measure import Arrays, error
from netparity.results import Check, check
from parity_tests.alexnet.networks import nested, trainable
from parity_tests.alexnet.programs import JaxProgram, TorchProgram
from parity_tests.alexnet.trajectory import SnappedNetwork, snapped
from torch_ref import cli as torch_cli
from torch_ref import data as torch_data

METRICS_SIZE = epochs.EVAL_BATCH_SIZE + 57  # the last batch is partial on both sides, whatever their batch sizes


@dataclasses.dataclass(frozen=True)
class Images:
    """Real images and where they come from.

    Attributes:
      splits: the product's splits.
      reference: the reference's own reading of the same data.
    """

    splits: Splits
    reference: torch_data.Splits


def load_images() -> Images:
    """CIFAR-10 from the folder that JAXALEX_DATA_DIR names, or else the embedded digits.

    Raises:
      UsageError: the folder does not hold it in the form that both programs read.
    """
    data_dir = os.environ.get("JAXALEX_DATA_DIR")
    return _load("cifar10", jax_data.stored_dir(data_dir)) if data_dir else load_digits()


def load_digits() -> Images:
    """The embedded digits."""
    return _load("digits", None)


def _load(name: str, data_dir: str | None) -> Images:
    try:
        return Images(jax_data.load(name, data_dir, 0), torch_data.load(name, data_dir))
    except torch_cli.UsageError as error:
        raise UsageError(str(error)) from error


def resized(images: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 images enlarged to at least a size by repeating pixels, then cropped: exact on every machine."""
    up = -(-height // images.shape[1]), -(-width // images.shape[2])
    return images.repeat(up[0], axis=1).repeat(up[1], axis=2)[:, :height, :width]


def splits(images: Images) -> Iterator[Check]:
    """Sizes of the splits, and the test images and labels themselves, against the reference's own reading."""
    ours, theirs = images.splits, images.reference
    for part in ("train", "eval", "test"):
        sizes = len(getattr(ours, part)), len(getattr(theirs, part))
        note = f"{ours.name}: {sizes[0]} images" if sizes[0] == sizes[1] else f"JAX {sizes[0]}, PyTorch {sizes[1]}"
        yield Check("data", "splits", f"size of {part}", sizes[0] == sizes[1], note=note)
    first = [theirs.test[i] for i in range(100)]
    pixels = np.stack([image.permute(1, 2, 0).numpy() for image, _ in first]) * 127.5 + 127.5
    same = np.array_equal(np.rint(pixels).astype(np.uint8), ours.test.images[:100])
    yield Check("data", "splits", "pixels of 100 test images", same, note=ours.name)
    labels = np.array_equal([label for _, label in first], ours.test.labels[:100])
    yield Check("data", "splits", "labels of 100 test images", labels, note=ours.name)


def normalisation(jax_program: JaxProgram, torch_program: TorchProgram, images: ImageSet) -> Iterator[Check]:
    """Statistics of the same images, and normalisation of every byte in every channel by both ways."""
    ours, theirs = jax_program.statistics(images.images), torch_program.statistics(images.images)
    for name, a, b in zip(("mean", "standard deviation"), ours, theirs, strict=True):
        note = f"of {len(images)} training images"
        yield check("data", "statistics", name, error(a, b).max, bounds.FLOAT64_LIMIT, note=note)
    every_byte = np.stack([np.roll(np.arange(256, dtype=np.uint8), 85 * c) for c in range(3)], -1).reshape(1, 16, 16, 3)
    pixels = np.concatenate([np.broadcast_to(every_byte, (2, 16, 16, 3)), images.images[:14, :16, :16]])
    half = np.full(3, 0.5, np.float32)
    dataset = [np.asarray(statistic, np.float32) for statistic in ours]
    for name, mean, std in (("half", half, half), ("dataset", dataset[0], dataset[1])):
        truth = (pixels / np.float64(255) - mean.astype(np.float64)) / std.astype(np.float64)
        for side, found in (
            ("JAX", jax_program.normalize(pixels, mean, std)),
            ("PyTorch", torch_program.normalize(pixels, mean, std)),
        ):
            worst = error(np.asarray(found), truth).max
            limit = bounds.bound(3)  # a division, a subtraction, another division
            yield check("data", "normalisation", f"{name}, {side} against float64", worst, limit, "float32")


def metrics(
    jax_program: JaxProgram, torch_program: TorchProgram, params: Arrays, images: ImageSet, image_hw: tuple[int, int]
) -> Iterator[Check]:
    """Loss and accuracy over a set whose last batch is partial, both sides in float64."""
    pixels = resized(images.images[:METRICS_SIZE], *image_hw)
    labels = images.labels[:METRICS_SIZE]
    half = jnp.full(3, 0.5, jnp.float32)

    with jax.enable_x64(True):
        state = TrainState(
            step=jnp.zeros((), jnp.int32),
            apply_fn=SnappedNetwork(jax_program.network),
            params=jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), nested(params)),
            tx=None,
            opt_state=None,
            mean=half,
            std=half,
            image_hw=image_hw,
        )
        ours = jax_program.evaluate(state, placement.place(ImageSet(pixels, labels), half.sharding))
    module = trainable(torch_program.side, params, "float64").module
    x = snapped(np.asarray(jax_program.normalize(pixels, half, half))).astype(np.float64)
    x_torch = torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))
    loss, accuracy = torch_program.evaluate(module, x_torch, torch.from_numpy(labels).long(), torch_program.side.loss)
    note = f"{len(labels)} images, the last batch partial"
    for name, a, b in (("loss", ours.loss, loss), ("accuracy", ours.accuracy, accuracy)):
        yield check("data", "metrics", name, error(np.array(a), np.array(b)).max, bounds.FLOAT64_LIMIT, note=note)
