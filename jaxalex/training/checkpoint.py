"""Checkpoints of a run: written as a whole, verified before use. The only file that knows Orbax.

Each checkpoint is a folder named after the number of training steps behind it: ``state/`` (Orbax: step, parameters,
optimizer state, normalisation), ``record.json`` (whatever the caller wants to keep with it) and ``manifest.json``
(SHA-256 of every other file). It is written under a temporary name, read back, and renamed when all of it is on the
disk.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import pathlib
import re
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import jax
import orbax.checkpoint as ocp

from jaxalex.errors import RunError, UsageError
from jaxalex.system import files, quiet
from jaxalex.training import steps
from jaxalex.training.state import TrainState

_MANIFEST, _RECORD, _STATE = "manifest.json", "record.json", "state"
_PARTIAL, _DAMAGED = ".partial", ".damaged"
_STEP = "0|[1-9][0-9]*"


class _OtherNetworkError(UsageError):
    """A checkpoint is intact, but its arrays are of other shapes; the other checkpoints' will be, too."""


class Checkpoints:
    """The checkpoints in a folder, numbered by training steps.

    Args:
      directory: created by the first `save`.
      keep: how many of the last ones stay, besides the best.
    """

    def __init__(self, directory: pathlib.Path, keep: int = 2) -> None:
        self._directory = directory.absolute()
        self._keep = keep

    def steps(self) -> list[int]:
        """Step numbers of all checkpoints, damaged ones included, in ascending order.

        Raises:
          OSError: the folder is there but cannot be read.
        """
        try:
            return sorted(int(path.name) for path in self._directory.iterdir() if re.fullmatch(_STEP, path.name))
        except FileNotFoundError:
            return []

    def save(self, step: int, state: TrainState, record: dict[str, Any], eval_accuracy: float | None = None) -> None:
        """Saves a state, then removes all checkpoints but the best and the last ones.

        Args:
          step: number of training steps behind the state.
          state: may be donated to the next step afterwards: the call returns when all of it is on the disk.
          record: JSON values to keep with it.
          eval_accuracy: in percent. None inside an epoch, where nothing is evaluated: such a checkpoint is never the
            best.

        Raises:
          RunError: the state holds numbers that are not finite, or it cannot be written; older checkpoints stay.
        """
        if not jax.jit(steps.all_finite)(_tree(state)):
            raise RunError(f"the parameters are no longer finite after step {step}, and were not saved")
        target = self._directory / str(step)
        partial = target.with_name(target.name + _PARTIAL)
        try:
            if not self._directory.parent.is_dir():  # do not create it again
                raise RunError(f"{self._directory.parent}: the run folder has vanished")
            self._directory.mkdir(exist_ok=True)
            files.refuse_other_than(files.FOLDER, self._directory)  # through a link, it would be somebody else's
            for leftover in self._directory.iterdir():
                if re.fullmatch(f"({_STEP}){re.escape(_PARTIAL)}", leftover.name):
                    shutil.rmtree(leftover)
            partial.mkdir()
            # Synchronous, because the next step overwrites the state's buffers.
            with quiet.threads(), ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
                checkpointer.save(partial / _STATE, args=ocp.args.StandardSave(_tree(state)))
            files.write_whole(partial / _RECORD, files.to_json(record | {"eval_accuracy": eval_accuracy}))
            files.write_whole(partial / _MANIFEST, files.to_json({"files": _digests(partial, sync=True)}))
            if target.exists():  # a damaged one: an intact one is not saved again
                shutil.rmtree(target)
            partial.rename(target)
            files.sync(self._directory)
            self._prune()
        # tensorstore reports a full disk as ValueError
        except (OSError, ValueError, RuntimeError, UsageError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise RunError(f"{target}: the checkpoint cannot be saved ({_reason(error)})") from error

    def restore(self, like: TrainState, say: Callable[[str], None]) -> tuple[int, TrainState, dict[str, Any]] | None:
        """The newest intact checkpoint, to resume training from.

        Newer ones, which are damaged, are reported and renamed to ``N.damaged``.

        Args:
          like: a state of the same network; only its structure, shapes and dtypes are used.
          say: gets a line for each damaged checkpoint.

        Returns:
          number of steps, state and record; None where nothing was ever saved.

        Raises:
          UsageError: there are checkpoints, and all of them are damaged; or they are of another network, and the
            message lists every array that differs.
          OSError: the folder cannot be read or written to.
        """
        problems = []
        for step in reversed(self.steps()):
            folder = self._directory / str(step)
            try:
                state, record = self._read(folder, _tree(like))
            except _OtherNetworkError:
                raise
            except UsageError as error:
                problems.append(str(error))
                continue
            for problem in problems:
                say(f"warning: {problem}; the one before, after step {step}, is used")
            for newer in self.steps():
                if newer > step:
                    damaged = self._directory / f"{newer}{_DAMAGED}"
                    shutil.rmtree(damaged, ignore_errors=True)
                    (self._directory / str(newer)).rename(damaged)
            return step, like.replace(**state), record
        if problems:
            raise UsageError("no checkpoint can be used: " + "; ".join(problems))
        return None

    def record(self, step: int) -> dict[str, Any]:
        """What was saved beside a state; not verified.

        Raises:
          UsageError: it cannot be read.
        """
        return files.read_json(self._directory / str(step) / _RECORD)

    def best(self) -> int:
        """The step of the checkpoint with the highest evaluation accuracy.

        Raises:
          UsageError: no checkpoint has one.
        """
        step = self._best()
        if step is None:
            raise UsageError(
                f"{self._directory}: holds no checkpoint" + (" with an evaluation" if self.steps() else "")
            )
        return step

    def restore_network(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """``like`` with a checkpoint's parameters and normalisation, and the checkpoint's record.

        Args:
          step: of the checkpoint.
          like: a state of the same network.

        Raises:
          UsageError: there is no such checkpoint, or it is damaged or belongs to another network.
        """
        parts = {name: getattr(like, name) for name in ("params", "mean", "std")}
        state, record = self._read(self._directory / str(step), parts)
        return like.replace(**state), record

    def _best(self) -> int | None:
        """The step with the highest evaluation accuracy; of several, the first."""
        accuracies = {}
        for step in self.steps():
            with contextlib.suppress(UsageError):
                accuracy = files.read_json(self._directory / str(step) / _RECORD).get("eval_accuracy")
                if isinstance(accuracy, float) and math.isfinite(accuracy):
                    accuracies[step] = accuracy
        return max(accuracies, key=lambda step: accuracies[step], default=None)

    def _prune(self) -> None:
        kept = {*self.steps()[-self._keep :], self._best()}
        for step in self.steps():
            if step not in kept:
                shutil.rmtree(self._directory / str(step))

    def _read(self, folder: pathlib.Path, like: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Those parts of a checkpoint's state that ``like`` has, and its record.

        Raises:
          UsageError: the checkpoint or a file in it is damaged, or does not fit ``like``; it is named.
        """
        manifest = files.read_json(folder / _MANIFEST).get("files")
        if not isinstance(manifest, dict):
            raise UsageError(f"{folder / _MANIFEST}: is damaged: it lists no files")
        try:
            found = _digests(folder)
        except OSError as error:
            raise UsageError(f"{folder}: cannot be read ({_reason(error)})") from error
        for name in sorted(manifest.keys() | found.keys()):
            if manifest.get(name) != found.get(name):
                what = "is missing" if name not in found else "differs from what was saved"
                raise UsageError(f"{folder}: is damaged: {name} {what}")
        record = files.read_json(folder / _RECORD)
        try:
            target = jax.tree.map(ocp.tree.to_shape_dtype_struct, like)
            restore_args = ocp.checkpoint_utils.construct_restore_args(target)
            args = ocp.args.PyTreeRestore(target, restore_args, partial_restore=True)
            with quiet.threads(), ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
                differing = _differing(target, checkpointer.metadata(folder / _STATE))
                tree = {} if differing else checkpointer.restore(folder / _STATE, args=args)
        except Exception as error:  # Orbax and tensorstore raise exceptions of many types
            raise UsageError(f"{folder}: cannot be read ({_reason(error)})") from error
        if differing:
            raise _OtherNetworkError(f"{folder}: is of another network: {'; '.join(differing)}")
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        # Where a partial restore does not find an array it returns the requested shape instead.
        missing = [jax.tree_util.keystr(path) for path, leaf in leaves if not isinstance(leaf, jax.Array)]
        if missing:
            raise UsageError(f"{folder}: lacks {', '.join(missing)}")
        if not jax.jit(steps.all_finite)(tree):
            raise UsageError(f"{folder}: holds numbers that are not finite")
        return tree, record


def _differing(ours: Any, metadata: Any) -> list[str]:
    """Every array whose shape in a checkpoint is another than in ``ours``, a tree of arrays or shapes."""
    theirs = {leaf.name: tuple(leaf.shape) for leaf in jax.tree.leaves(metadata.item_metadata.tree)}
    problems = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(ours):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        if name in theirs and theirs[name] != leaf.shape:
            problems.append(f"{name} {leaf.shape} now, {theirs[name]} in the checkpoint")
    return problems


def _tree(state: TrainState) -> dict[str, Any]:
    """The arrays of a state: what is saved, without its functions."""
    return {name: getattr(state, name) for name in ("step", "params", "opt_state", "mean", "std")}


def _regular_files(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise UsageError(f"{path}: is not a regular file")
        if path.is_file() and path.name != _MANIFEST:
            yield path


def _digests(folder: pathlib.Path, sync: bool = False) -> dict[str, str]:
    """SHA-256 of every file in a checkpoint except the manifest; ``sync`` first forces all of it onto the disk."""
    found = {}
    for path in _regular_files(folder):
        if sync:
            files.sync(path)
        with files.open_regular(path, follow=False) as file:
            found[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    if sync:
        for path in (folder, *folder.rglob("*")):
            if path.is_dir():
                files.sync(path)
    return found


def _reason(error: BaseException) -> str:
    """The reason in an error of the disk or of Orbax, without tensorstore's source locations."""
    line = getattr(error, "strerror", None) or files.first_line(error)
    return line.partition(" [source locations")[0]
