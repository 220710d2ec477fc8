"""Every level of the comparison for one of the AlexNets, in order."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Collection

import numpy as np

from netparity import bounds, levels, pairs
from netparity.diagnosis.diagnose import describe
from netparity.graph import ByHand
from netparity.jax_side import JaxSide
from netparity.measure import error
from netparity.pairs import DTYPES, Pair
from netparity.results import Check, Result, check
from parity_tests.alexnet import data, trajectory
from parity_tests.alexnet.diagnosis import others
from parity_tests.alexnet.initialisers import initialisers
from parity_tests.alexnet.networks import Case, Forward, make_inputs
from parity_tests.alexnet.optimizer import optimizer
from parity_tests.alexnet.programs import JaxProgram, TorchProgram, programs

# Metrics over a whole set and images of two shapes do not depend on the width; they are compared on a narrow network.
NARROW = 0.0625


def without_capture(jax_program: JaxProgram, torch_program: TorchProgram, pair: Pair) -> list[Check]:
    """The network as it is trained, without intermediates, where it may compute its layers in another order."""
    images = pair.inputs_as("float64")
    params, masks = pair.params_as("float64"), pair.masks("float64")
    forward = Forward(jax_program.network, capture=False)
    ours = JaxSide(ByHand(forward), jax_program.loss, quick=True).gradients(params, images, pair.labels, pair.seed)
    theirs = torch_program.side.gradients(params, images, pair.labels, masks)
    found = [("loss", "loss", np.array(ours.loss), np.array(theirs.loss))]
    found += [
        (pairs.stage_of(name, pair.torch.stages), name, ours.params[name], theirs.params[name])
        for name in theirs.params
    ]
    return [
        check("gradients", stage, f"{n}, without capture", error(a, b).max, bounds.FLOAT64_LIMIT)
        for stage, n, a, b in found
    ]


def run(
    case: Case,
    steps: int,
    dtypes: Collection[str] = DTYPES,
    trajectory_batch: int = 8,
    progress: Callable[[str], None] = lambda text: None,
    torch_device: str = "cpu",
) -> Result:
    """All seven levels for one AlexNet.

    Args:
      case: the network and the batch of levels 1 to 3.
      steps: of training, at least 1.
      dtypes: of ``("float64", "float32")``.
      trajectory_batch: images a training step.
      progress: gets a line when something begins.
      torch_device: where the reference's networks are computed; JAX's are on its default device.
    """
    result, start = Result(case.batch_size, case.image_shape, case.width, steps), time.perf_counter()

    def say(text: str) -> None:
        progress(f"[{time.perf_counter() - start:5.0f} s] {case.model}: {text}")

    images = data.load_images()
    result.images = f"{images.splits.name} ({images.splits.source})"
    say(f"images: {result.images}")
    height, width, _ = case.image_shape
    jax_program, torch_program = programs(case, torch_device)
    inputs = make_inputs(case, images=_normalised(images, case.batch_size, height, width))
    pair = Pair(jax_program.side, torch_program.side, inputs.params, inputs.images, inputs.labels)
    say("shapes, forward and gradients")
    result.parents = dict(pair.graph().parents)
    result.layers, result.checks, result.flips = levels.network(pair, dtypes)
    if result.failures:  # all later levels would only repeat them
        result.diagnosis = describe(result.failures[0], pair, others(jax_program, torch_program)).text
        return result
    if "float64" in dtypes:
        say("the network without capture")
        result.checks += without_capture(jax_program, torch_program, pair)
        say("images that are not square")
        result.checks += _oblong(case, torch_device)
    say("optimizer")
    result.checks += optimizer(jax_program, torch_program, dtypes)
    say("data and metrics")
    result.checks += data.splits(images)
    result.checks += data.normalisation(jax_program, torch_program, images.splits.train)
    narrow = dataclasses.replace(case, width=NARROW, num_classes=10)
    result.checks += data.metrics(
        *programs(narrow, torch_device), make_inputs(narrow).params, images.splits.test, (height, width)
    )
    say("initialisers")
    result.checks += initialisers(jax_program, torch_program)
    say(f"trajectory of {steps} steps")
    train = images.splits.train.take(np.arange(min(len(images.splits.train), steps * trajectory_batch)))
    batches = trajectory.batches(data.resized(train.images, height, width), train.labels, trajectory_batch, steps)
    result.trajectory, checks = trajectory.run(jax_program, torch_program, inputs.params, batches, dtypes, progress=say)
    result.checks += checks
    if result.failures:
        result.diagnosis = describe(result.failures[0], pair, others(jax_program, torch_program)).text
    return result


def _oblong(case: Case, torch_device: str) -> list[Check]:
    """Levels 1 to 3 in float64 on images that are higher than wide, where every transposition shows."""
    height, width, _ = case.image_shape
    oblong = dataclasses.replace(case, width=NARROW, num_classes=7, image_hw=(height * 9 // 8, width))
    jax_program, torch_program = programs(oblong, torch_device)
    inputs = make_inputs(oblong, seed=1)
    pair = Pair(jax_program.side, torch_program.side, inputs.params, inputs.images, inputs.labels, seed=1)
    layers, checks, _ = levels.network(pair, ["float64"])
    size = f"{oblong.image_shape[0]}x{oblong.image_shape[1]}"
    checks += [
        check("forward", row.stage, f"{row.stage} {row.quantity}, isolated", row.float64_error or 0.0, 1e-12)
        for row in layers
    ]
    return [dataclasses.replace(one, name=f"{one.name}, {size}") for one in checks]


def _normalised(images: data.Images, count: int, height: int, width: int) -> np.ndarray:
    pixels = data.resized(images.splits.train.images[:count], height, width)
    return ((pixels / 255 - 0.5) / 0.5).astype(np.float32)
