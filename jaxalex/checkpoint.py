"""Checkpoints of a run: the best by evaluation accuracy and the last. The only file that knows Orbax."""

from __future__ import annotations

import pathlib
from typing import Any, Literal

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from jaxalex.errors import UsageError
from jaxalex.state import TrainState


def _accuracy(metrics: Any) -> float:
    return float(metrics["eval_accuracy"])


class Checkpoints:
    """The checkpoints in a folder, numbered by epoch; a context manager.

    Args:
      directory: made if it is not there.
    """

    def __init__(self, directory: pathlib.Path) -> None:
        policy = preservation_policy.AnyPreservationPolicy(
            [preservation_policy.LatestN(1), preservation_policy.BestN(get_metric_fn=_accuracy, n=1)]
        )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policy,
            best_fn=_accuracy,
            # The state's buffers are donated to the next step: on the CPU an asynchronous save would read them there.
            enable_async_checkpointing=False,
        )
        self._manager = ocp.CheckpointManager(directory.absolute(), options=options)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.close()

    def save(self, epoch: int, state: TrainState, eval_accuracy: float) -> None:
        """Saves the state after an epoch; keeps the best and the last, removes the others."""
        args = ocp.args.Composite(state=ocp.args.StandardSave(_tree(state)))
        self._manager.save(epoch, args=args, metrics={"eval_accuracy": eval_accuracy})

    def restore_params(self, which: Literal["best", "last"], like: TrainState) -> tuple[int, TrainState]:
        """The epoch of a checkpoint, and ``like`` with its parameters.

        Args:
          which: "best" by evaluation accuracy, or "last".
          like: a state of the network that was saved.

        Raises:
          UsageError: if there is no checkpoint, or it is of another network.
        """
        epoch = self._manager.best_step() if which == "best" else self._manager.latest_step()
        if epoch is None:
            raise UsageError(f"{self._manager.directory}: holds no checkpoint")
        target = {"params": jax.tree.map(ocp.tree.to_shape_dtype_struct, like.params)}
        try:
            restore_args = ocp.checkpoint_utils.construct_restore_args(target)
            args = ocp.args.Composite(state=ocp.args.PyTreeRestore(target, restore_args, partial_restore=True))
            tree = self._manager.restore(epoch, args=args).state
        except (ValueError, KeyError, OSError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UsageError(f"{self._manager.directory}/{epoch}: cannot be read ({reason})") from error
        return epoch, like.replace(params=tree["params"])


def _tree(state: TrainState) -> dict[str, Any]:
    """The arrays of a state; functions are not saved."""
    return {name: getattr(state, name) for name in ("step", "params", "opt_state", "mean", "std")}
