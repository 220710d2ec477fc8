"""One epoch over a placed image set: its order, the compiled training steps, the evaluation."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Mapping

import jax
import numpy as np
from tqdm import tqdm

from jaxalex.errors import NotFiniteError, RunError, UsageError
from jaxalex.system import memory, settings
from jaxalex.training import placement, steps
from jaxalex.training.placement import Dispatch, Placed, Streaming
from jaxalex.training.report import ADDED
from jaxalex.training.state import TrainState

# Fixed, so that an evaluation after training runs the same program as one during training, with the same result.
EVAL_BATCH_SIZE = 200
# On a CPU a step takes a fraction of a second, and XLA runs it slower inside a loop; on a GPU a step takes less than
# a millisecond, and dispatching each one from Python would be the bottleneck.
_STEPS_PER_DISPATCH = {"cpu": 1}
_STEPS_PER_DISPATCH_ELSEWHERE = 50


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The result on a whole image set.

    Attributes:
      loss: mean over the samples that count: all but those that cannot be decoded.
      accuracy: in percent.
      logits: ``[n, classes]``, of the samples that count.
      labels: int32 ``[n]``, theirs.
      index: int64 ``[n]``, their places in the set.
      problems: what is wrong with the others.
    """

    loss: float
    accuracy: float
    logits: np.ndarray
    labels: np.ndarray
    index: np.ndarray
    problems: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Tally:
    """How far an epoch has come.

    Attributes:
      step: number of steps taken.
      loss_sum, correct, count: sums over the samples of the steps that were not skipped.
      skipped: number of steps skipped because their loss or gradient was not finite.
      seconds: time spent on these steps.
      waited: of it, time in which the device had nothing to do because images were not decoded yet.
      unreadable: number of samples left out because they cannot be decoded.
    """

    step: int = 0
    loss_sum: float = 0.0
    correct: float = 0.0
    count: float = 0.0
    skipped: int = 0
    seconds: float = 0.0
    waited: float = dataclasses.field(default=0.0, metadata=ADDED)
    unreadable: int = dataclasses.field(default=0, metadata=ADDED)

    @property
    def loss(self) -> float:
        """Mean loss over samples."""
        return self.loss_sum / self.count

    @property
    def accuracy(self) -> float:
        """In percent."""
        return 100 * self.correct / self.count


@dataclasses.dataclass(frozen=True)
class CompiledEpoch:
    """`steps.train_epoch`, compiled for the shapes of one run; another shape is an error, never a recompilation.

    Attributes:
      programs: the compiled program for each number of steps in one dispatch.
      steps_per_dispatch: in every dispatch of an epoch but the last, which may have fewer.
      skip_nonfinite: as in `steps.train_epoch`.
      compile_seconds: how long compiling took.
    """

    programs: Mapping[int, jax.stages.Compiled]
    steps_per_dispatch: int
    skip_nonfinite: bool
    compile_seconds: float


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


def compile_epoch(
    state: TrainState, placed: Placed | Streaming, batch_size: int, key: jax.Array, skip_nonfinite: bool = False
) -> CompiledEpoch:
    """Compiles the training steps for a state, a placed training set and a batch size.

    Args:
      skip_nonfinite: as in `steps.train_epoch`.

    Raises:
      RunError: they would not fit into the device's memory; the message names a batch size that does.
      UsageError: JAX is told to compile nothing.
    """
    if settings.get("jax_disable_jit"):
        raise UsageError(
            "JAX_DISABLE_JIT=1 cannot be used: training compiles its steps beforehand: unset it, or look into a step "
            "by calling jaxalex.training.steps.train_step"
        )
    start = time.perf_counter()
    programs = _compile(state, placed, batch_size, key, skip_nonfinite)
    free = placement.free_bytes(placed.sharding)
    needed = _needed(programs)
    if free is not None and needed > free:
        fitting = batch_size
        while fitting > 1 and needed > free:
            # The need grows roughly in proportion to the batch. This is only where to look: the smaller batch is
            # compiled and its need is read off, too.
            fitting = min(fitting // 2, max(1, int(batch_size * free / needed)))
            needed = _needed(_compile(state, placed, fitting, key, skip_nonfinite))
        advice = f"--batch-size {fitting} fits" if needed <= free else "no batch size fits: try a smaller --width"
        raise RunError(
            f"out of memory: --batch-size {batch_size} needs {memory.gigabytes(_needed(programs))} beside the data "
            f"and the network, {memory.gigabytes(free)} are free; {advice}"
        )
    memory.return_freed_memory()
    return CompiledEpoch(programs, max(programs), skip_nonfinite, time.perf_counter() - start)


def _compile(
    state: TrainState, placed: Placed | Streaming, batch_size: int, key: jax.Array, skip_nonfinite: bool
) -> dict[int, jax.stages.Compiled]:
    platform = placement.devices(placed.sharding)[0].platform
    num_steps = -(-len(placed) // batch_size)
    chunk = min(num_steps, placed.at_once(_STEPS_PER_DISPATCH.get(platform, _STEPS_PER_DISPATCH_ELSEWHERE)))
    programs = {}
    for rows in {chunk, num_steps % chunk or chunk}:
        indices = jax.ShapeDtypeStruct((rows, batch_size), np.int32, sharding=placed.sharding)
        programs[rows] = steps.train_epoch.lower(state, placed.like(batch_size), indices, key, skip_nonfinite).compile()
    return programs


def _needed(programs: Mapping[int, jax.stages.Compiled]) -> int:
    return max(memory.needed_bytes(program) for program in programs.values())


def train_one_epoch(
    compiled: CompiledEpoch,
    state: TrainState,
    placed: Placed | Streaming,
    indices: np.ndarray,
    key: jax.Array,
    description: str = "",
    tally: Tally = Tally(),
    pause: Callable[[int], bool] = lambda step: False,
    notify: Callable[[str], None] = lambda line: None,
) -> tuple[TrainState, Tally]:
    """Runs one epoch, or what is left of it. A progress bar shows on stderr if that is a terminal.

    Args:
      compiled: from `compile_epoch`, for these shapes.
      state: donated; do not use it after the call.
      placed: the training set.
      indices: from `epoch_indices`.
      key: the run's dropout key.
      description: text in front of the bar.
      tally: how far the epoch has come already.
      pause: called after each dispatch with the number of steps taken; True ends the call there.
      notify: gets what is wrong with each picture that is left out.

    Returns:
      the state, and the tally that belongs to it.

    Raises:
      NotFiniteError: the loss or gradient of a step is not finite; the message names the step.
      RunError: a picture cannot be decoded.
    """
    start = time.perf_counter() - tally.seconds
    size, done = len(placed), int(tally.count)
    where = f"of {len(indices)} ({description})"
    pending: tuple[Dispatch, steps.Metrics] | None = None

    def settle() -> None:
        jax.block_until_ready(pending)

    # Under JAX_DEBUG_NANS and the like JAX could only name the program; our own check names the step.
    with (
        jax.debug_nans(False),
        jax.debug_infs(False),
        tqdm(total=size, initial=done, desc=description, unit=" images", leave=False, disable=None) as bar,
    ):
        step = tally.step
        dispatches = placed.dispatches(indices, compiled.steps_per_dispatch, step, settle)
        with contextlib.closing(dispatches):  # so that what decodes ahead stops at once
            for dispatch in dispatches:
                state, metrics = compiled.programs[len(dispatch.rows)](state, dispatch.data, dispatch.rows, key)
                for problem in dispatch.problems:
                    notify(problem)
                if pending:  # metrics are read one dispatch late, so that the device never waits for the host
                    tally = _add(tally, *pending, compiled.skip_nonfinite, bar, where)
                pending = (dispatch, metrics)
                step += len(dispatch.rows)
                if pause(step):
                    break
        if pending:
            tally = _add(tally, *pending, compiled.skip_nonfinite, bar, where)
    jax.block_until_ready(state)
    return state, dataclasses.replace(tally, seconds=time.perf_counter() - start)


def _add(
    tally: Tally, dispatch: Dispatch, metrics: steps.Metrics, skip_nonfinite: bool, bar: tqdm, where: str
) -> Tally:
    """The tally after one more dispatch, whose metrics are given."""
    values = {name: float(value) for name, value in metrics.items()}
    finite, num_steps = int(values["finite"]), len(dispatch.rows)
    if finite < num_steps and not skip_nonfinite:
        what = "loss or its gradient is not finite"
        if num_steps == 1:
            what = "gradient is not finite" if math.isfinite(values["loss"]) else f"loss is {values['loss']}"
        raise NotFiniteError(f"the {what} at step {tally.step + finite + 1} {where}")
    waited = tally.waited + dispatch.waited
    if values["count"] and not bar.disable:
        waiting = f", waiting {waited / bar.format_dict['elapsed']:.0%}" if waited else ""
        bar.set_postfix_str(f"loss {values['loss'] / values['count']:.3f}{waiting}", refresh=False)
    bar.update(int(values["count"]))
    return dataclasses.replace(
        tally,
        step=tally.step + num_steps,
        loss_sum=tally.loss_sum + values["loss"],
        correct=tally.correct + values["correct"],
        count=tally.count + values["count"],
        skipped=tally.skipped + num_steps - finite,
        waited=waited,
        unreadable=tally.unreadable + len(dispatch.problems),
    )


def evaluate(
    state: TrainState, placed: Placed | Streaming, between: Callable[[], None] = lambda: None, crops: int = 1
) -> Evaluation:
    """Loss and accuracy over every sample of a placed image set, without dropout.

    Args:
      between: called after each batch; an exception from it ends the evaluation.
      crops: 1, or 10 for ten-crop testing (`steps.eval_ten_crops_step`).

    Raises:
      RunError: a picture cannot be decoded, or none of them can.
    """
    eval_step = steps.eval_step if crops == 1 else steps.eval_ten_crops_step
    size = len(placed)
    results: list[tuple[steps.Metrics, jax.Array]] = []
    found, problems = [], []
    dispatches = placed.dispatches(_padded_rows(np.arange(size), EVAL_BATCH_SIZE), at_once=1)
    with contextlib.closing(dispatches):
        for dispatch in dispatches:
            results.append(eval_step(state, dispatch.data, dispatch.rows[0]))
            found.append(dispatch.labels[0])
            problems += dispatch.problems
            # Stay no more than one batch ahead of the device, so that `between` can stop the evaluation in time.
            jax.block_until_ready(results[-2:-1])
            between()
    loss, correct, count = (
        sum(float(metrics[name]) for metrics, _ in results) for name in ("loss", "correct", "count")
    )
    if not count:
        raise RunError(f"none of {size:,} pictures can be read; the first: {problems[0]}")
    labels = np.concatenate(found)
    index = np.flatnonzero(labels >= 0)
    logits = np.concatenate([np.asarray(batch_logits) for _, batch_logits in results])[index]
    return Evaluation(loss / count, 100 * correct / count, logits, labels[index], index, tuple(problems))
