"""Where faults are planted: a narrow pair of right programs, and the levels of the comparison that look for them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from unittest import mock

import jax

from jaxalex.data import Splits
from jaxalex.training import epochs, steps
from netparity import bounds, isolation, levels, pairs
from netparity.compiling import quick_options
from netparity.pairs import Fed, Pair
from netparity.results import Check, StageResult, check
from parity_tests.alexnet import data, trajectory
from parity_tests.alexnet.initialisers import initialisers
from parity_tests.alexnet.networks import Case, Inputs, make_inputs
from parity_tests.alexnet.optimizer import optimizer
from parity_tests.alexnet.programs import programs
from parity_tests.faults.planting import Programs

WIDTH = 1 / 16
# As small as hides what the published size hides: every pool divides evenly, and where the published one does not,
# conv1 does not. Higher than wide, for axes that are swapped.
IMAGE_HW = {"cifar10": (32, 24), "paper": (128, 96), "original": (128, 96), "torchvision": (160, 128)}
_STEPS = 5  # the last batch is a partial one
Finding = StageResult | Check


@dataclasses.dataclass(frozen=True)
class Bench:
    """The right programs of a narrow network of ten classes, and what they are fed.

    Attributes:
      case: the network.
      right: its programs.
      inputs: parameters and a batch.
      splits: the images that training, normalisation and metrics see.
      fed: what every stage is fed in isolation: the right network's activations, whatever fault is planted before it.
      seed: of parameters, batch, dropout and cotangents.
    """

    case: Case
    right: Programs
    inputs: Inputs
    splits: Splits
    fed: Fed
    seed: int = 0

    def pair(self, found: Programs) -> Pair:
        """Both networks of two programs with this bench's inputs."""
        inputs = self.inputs
        return Pair(found[0].side, found[1].side, inputs.params, inputs.images, inputs.labels, self.seed)


def bench(model: str, seed: int = 0, image_hw: tuple[int, int] | None = None, like: Bench | None = None) -> Bench:
    """A bench of one of the networks; ``like`` shares its programs and images, whatever its seed."""
    case = Case(model, WIDTH, batch_size=2, num_classes=10, image_hw=image_hw or IMAGE_HW[model])
    right = quick_programs(case) if like is None else like.right
    inputs = make_inputs(case, seed)
    pair = Pair(right[0].side, right[1].side, inputs.params, inputs.images, inputs.labels, seed)
    splits = data.load_digits().splits if like is None else like.splits
    return Bench(case, right, inputs, splits, feed(pair), seed)


def quick_programs(case: Case) -> Programs:
    """The right pair, whose training and evaluation steps are compiled in a fifth of the time to slower programs."""
    ours, theirs = programs(case)
    return dataclasses.replace(ours, train_step=_quickly(steps.train_step), evaluate=_quick_evaluate), theirs


@functools.cache
def _quickly(step: Callable[..., Any]) -> Callable[..., Any]:
    return jax.jit(step, compiler_options=quick_options())


def _quick_evaluate(*args: Any) -> epochs.Evaluation:
    with mock.patch.object(steps, "eval_step", _quickly(steps.eval_step)):
        return epochs.evaluate(*args)


def feed(pair: Pair) -> Fed:
    """What every stage of a right pair is fed in isolation."""
    return pairs.feed(pair.torch.forward(pair.params_as("float64"), pair.inputs_as("float64")), pair.seed)


@dataclasses.dataclass(frozen=True)
class Level:
    """One level of the comparison.

    Attributes:
      judge: what it finds of two programs.
      pieces: the names of the pieces that it looks at; a change to any other cannot be found here.
      seeded: whether what it finds depends on the bench's seed.
    """

    judge: Callable[[Bench, Programs], Iterable[Finding]]
    pieces: frozenset[str]
    seeded: bool = True


def changed(found: Programs, right: Programs) -> set[str]:
    """The names of the pieces in which two programs differ from the right ones."""

    def of(ours: Any, wanted: Any) -> set[str]:
        names = [field.name for field in dataclasses.fields(wanted)]
        return {name for name in names if getattr(ours, name) != getattr(wanted, name)}

    return of(found[0], right[0]) | of(found[1], right[1])


def _network(on: Bench, found: Programs) -> Iterator[Finding]:
    """All that is judged of a pair of networks in float64, in order; nothing is computed before it is asked for."""
    pair = on.pair(found)
    yield from single_layers(pair, on.fed)
    truth = pair.torch.forward(pair.params_as("float64"), pair.inputs_as("float64"))
    yield from levels.forward(pair, ["float64"], truth)
    yield from levels.gradients(pair, ["float64"])


def single_layers(pair: Pair, fed: Fed) -> Iterator[Finding]:
    """Shapes, and in float64 every layer in isolation."""
    yield from levels.shapes(pair)
    yield from isolation.layers(pair, fed, ["float64"])


def first_failure(findings: Iterable[Finding]) -> Finding | None:
    """The first that did not pass; what comes after it is not computed."""
    return next((one for one in findings if not one.passed), None)


def _normalisation(on: Bench, found: Programs) -> Iterator[Finding]:
    return data.normalisation(*found, on.splits.train)


def _float32(on: Bench, found: Programs) -> Iterator[Finding]:
    return iter(isolation.layers(on.pair(found), on.fed, ["float32"]))


def _optimizer(on: Bench, found: Programs) -> Iterator[Finding]:
    return optimizer(*found, ["float64"])


def _training(on: Bench, found: Programs) -> Iterator[Finding]:
    pixels = data.resized(on.splits.train.images[:40], *on.case.image_shape[:2])
    batches = trajectory.batches(pixels, on.splits.train.labels[:40], 4, _STEPS, on.seed)
    settings = trajectory.Settings(seed=on.seed)
    for row in trajectory.lockstep(*found, on.inputs.params, batches, "float64", settings):
        name = f"parameters after step {row['step']}"
        yield check("training", "training", name, row["parameters"], bounds.TRAJECTORY_LIMIT)


def _metrics(on: Bench, found: Programs) -> Iterator[Finding]:
    return data.metrics(*found, on.inputs.params, on.splits.test, on.case.image_shape[:2])


def _initialisers(on: Bench, found: Programs) -> Iterator[Finding]:
    return initialisers(*found, on.seed)


LEVELS = (
    Level(_normalisation, frozenset({"normalize", "statistics"}), seeded=False),
    Level(_network, frozenset({"network", "loss", "side"})),
    Level(_optimizer, frozenset({"sgd", "rate"}), seeded=False),
    Level(_float32, frozenset({"network", "side"})),
    Level(_training, frozenset({"network", "side", "normalize", "sgd", "train_step"})),
    Level(_metrics, frozenset({"network", "side", "normalize", "evaluate"})),
    Level(_initialisers, frozenset({"schemes"})),
)
