"""One epoch over an image set that lies on the device: its order, the compiled training steps, the evaluation."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping

import jax
import numpy as np
from tqdm import tqdm

from jaxalex import steps
from jaxalex.data import ImageSet
from jaxalex.errors import RunError
from jaxalex.state import TrainState

# Fixed, so that an evaluation after training runs the same program as one during it, and gives the same figures.
EVAL_BATCH_SIZE = 200
# On a CPU a step takes a fraction of a second, and XLA runs it slower inside a loop; on a GPU a step takes less than
# a millisecond, and dispatching each one from Python would be the bottleneck.
_STEPS_PER_DISPATCH = {"cpu": 1}
_STEPS_PER_DISPATCH_ELSEWHERE = 50


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Mean loss, accuracy in percent, and the logits ``[n, classes]``, over a whole image set."""

    loss: float
    accuracy: float
    logits: np.ndarray


@dataclasses.dataclass(frozen=True)
class EpochResult:
    """Mean loss over samples and accuracy in percent while training, and how long the epoch took."""

    loss: float
    accuracy: float
    seconds: float


@dataclasses.dataclass(frozen=True)
class CompiledEpoch:
    """`steps.train_epoch`, compiled for one run's shapes; it cannot recompile: another shape is an error.

    Attributes:
      programs: by number of steps in one dispatch.
      steps_per_dispatch: of all dispatches of an epoch but the last.
      compile_seconds: how long compiling took.
    """

    programs: Mapping[int, jax.stages.Compiled]
    steps_per_dispatch: int
    compile_seconds: float


def place(images: ImageSet, device: jax.Device) -> steps.Batch:
    """A whole image set on the device: ``image`` and ``label``."""
    return jax.device_put({"image": images.images, "label": images.labels}, device)


def epoch_indices(size: int, batch_size: int, seed: int, epoch: int) -> np.ndarray:
    """The order of one epoch: int32 ``[steps, batch_size]``, every sample once, padded with -1 at the end.

    The same seed and epoch give the same order on every machine.

    >>> np.sort(epoch_indices(5, 3, seed=0, epoch=1).ravel()).tolist()
    [-1, 0, 1, 2, 3, 4]
    """
    # RandomState's stream is frozen by NumPy's compatibility policy (NEP 19); Generator's is not.
    order = np.random.RandomState([seed, epoch]).permutation(size)
    return _padded_rows(order, batch_size)


def _padded_rows(indices: np.ndarray, batch_size: int) -> np.ndarray:
    rows = -(-len(indices) // batch_size)
    padded = np.full(rows * batch_size, -1, np.int32)
    padded[: len(indices)] = indices
    return padded.reshape(rows, batch_size)


def compile_epoch(state: TrainState, placed: steps.Batch, batch_size: int, key: jax.Array) -> CompiledEpoch:
    """Compiles the training steps for a state, a placed training set and a batch size."""
    device = next(iter(placed["label"].devices()))
    num_steps = -(-len(placed["label"]) // batch_size)
    chunk = min(num_steps, _STEPS_PER_DISPATCH.get(device.platform, _STEPS_PER_DISPATCH_ELSEWHERE))
    start = time.perf_counter()
    programs = {}
    for rows in {chunk, num_steps % chunk or chunk}:
        indices = jax.device_put(np.zeros((rows, batch_size), np.int32), device)
        programs[rows] = steps.train_epoch.lower(state, placed, indices, key).compile()
    return CompiledEpoch(programs, chunk, time.perf_counter() - start)


def train_one_epoch(
    compiled: CompiledEpoch,
    state: TrainState,
    placed: steps.Batch,
    indices: np.ndarray,
    key: jax.Array,
    description: str = "",
) -> tuple[TrainState, EpochResult]:
    """Runs one epoch under a progress bar on stderr (none where that is no terminal).

    Args:
      compiled: from `compile_epoch`, for these shapes.
      state: given up to the result.
      placed: the training set.
      indices: from `epoch_indices`.
      key: the run's dropout key.
      description: stands before the bar.

    Raises:
      RunError: naming the step whose loss is not finite.
    """
    sums = dict.fromkeys(("loss", "correct", "count"), 0.0)
    size = len(placed["label"])
    rows = jax.device_put(indices, next(iter(placed["label"].devices())))
    start = time.perf_counter()
    with tqdm(total=size, desc=description, unit=" images", leave=False, disable=None) as bar:

        def account(step: int, metrics: steps.Metrics) -> None:
            values = {name: float(value) for name, value in metrics.items()}
            if not math.isfinite(values["loss"]):
                raise RunError(
                    f"the loss is {values['loss']} at step {step} of {len(indices)} ({description}): "
                    "try a lower --learning-rate or another --init"
                )
            for name, value in values.items():
                sums[name] += value
            bar.set_postfix_str(f"loss {values['loss'] / values['count']:.3f}", refresh=False)
            bar.update(int(values["count"]))

        pending = None  # metrics are read one dispatch late, so that the device never waits for us
        for first in range(0, len(indices), compiled.steps_per_dispatch):
            chunk = rows[first : first + compiled.steps_per_dispatch]
            state, metrics = compiled.programs[len(chunk)](state, placed, chunk, key)
            if pending:
                account(*pending)
            pending = (first + len(chunk), metrics)
        if pending:
            account(*pending)
    jax.block_until_ready(state)
    seconds = time.perf_counter() - start
    return state, EpochResult(sums["loss"] / sums["count"], 100 * sums["correct"] / sums["count"], seconds)


def evaluate(state: TrainState, placed: steps.Batch) -> Evaluation:
    """Loss and accuracy over every sample of a placed image set, without dropout."""
    size = len(placed["label"])
    rows = jax.device_put(_padded_rows(np.arange(size), EVAL_BATCH_SIZE), next(iter(placed["label"].devices())))
    results = [steps.eval_step(state, placed, row) for row in rows]
    loss, correct, count = (
        sum(float(metrics[name]) for metrics, _ in results) for name in ("loss", "correct", "count")
    )
    logits = np.concatenate([np.asarray(batch_logits) for _, batch_logits in results])[:size]
    return Evaluation(loss / count, 100 * correct / count, logits)
