"""How far a run has come, what a checkpoint records of the run, and what must agree for it to be resumed."""

from __future__ import annotations

import dataclasses
import hashlib
import typing
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxalex import config as config_lib
from jaxalex.config import TrainConfig
from jaxalex.data import Splits
from jaxalex.errors import UsageError
from jaxalex.system import environment, settings
from jaxalex.training.epochs import Tally
from jaxalex.training.report import EpochRow


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a run has come.

    Attributes:
      epoch: the current epoch, counted from 1; after the last epoch, the number of epochs plus 1.
      tally: how far that epoch has come.
      rows: the finished epochs.
      wall_seconds: time spent on the run so far, without the pauses between its processes.
    """

    epoch: int = 1
    tally: Tally = Tally()  # noqa: RUF009 (frozen)
    rows: tuple[EpochRow, ...] = ()
    wall_seconds: float = 0.0

    def step(self, steps_per_epoch: int) -> int:
        """Training steps taken in the whole run.

        >>> Progress(epoch=3, tally=Tally(step=5)).step(steps_per_epoch=100)
        205
        """
        return (self.epoch - 1) * steps_per_epoch + self.tally.step

    def to_record(self) -> dict[str, Any]:
        """As JSON values; Python writes floats so that they are read back bit for bit."""
        return dataclasses.asdict(self) | {"rows": [row.to_json() for row in self.rows]}

    @staticmethod
    def from_record(record: Mapping[str, Any]) -> Progress:
        """The inverse of `to_record`.

        Raises:
          UsageError: the record is not one that `to_record` wrote.
        """
        try:
            return Progress(
                epoch=_number(record["epoch"], int),
                tally=_build(Tally, record["tally"]),
                rows=tuple(_build(EpochRow, row) for row in record["rows"]),
                wall_seconds=_number(record["wall_seconds"], float),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UsageError(f"its record is damaged ({error!r})") from error


def _number(value: Any, kind: type[int] | type[float]) -> Any:
    if type(value) is not kind or not value >= 0:
        raise ValueError(f"{value!r} instead of a number of type {kind.__name__}, at least 0")
    return value


def _build(kind: type, values: Mapping[str, Any]) -> Any:
    types = typing.get_type_hints(kind)
    optional: dict[str, Any] = {field.name: float for field in dataclasses.fields(kind) if field.default is None}
    optional |= {field.name: types[field.name] for field in dataclasses.fields(kind) if "added" in field.metadata}
    if not types.keys() - optional.keys() <= values.keys() <= types.keys():
        raise ValueError(f"{sorted(values)} instead of {sorted(types)}")
    return kind(**{name: _number(value, (types | optional)[name]) for name, value in values.items()})


def describe_run(config: TrainConfig, splits: Splits, dropout_key: jax.Array, device: jax.Device) -> dict[str, Any]:
    """What every checkpoint of a run records beside its progress, as JSON values.

    Returns:
      ``config``, ``split`` (see `describe_split`), ``settings`` (JAX's), ``dropout_key`` (its words) and
      ``environment`` (device, versions, variables).
    """
    return {
        "config": dataclasses.asdict(config),
        "split": describe_split(splits, config.seed),
        "settings": settings.current(),
        "dropout_key": jax.random.key_data(dropout_key).tolist(),
        "environment": {
            "device": environment.describe_device(device),
            **environment.versions(),
            **environment.variables(),
        },
    }


def describe_split(splits: Splits, seed: int) -> dict[str, Any]:
    """A split by its content, wherever it was read from: sizes, and SHA-256 over all images and labels in order.

    Of photographs also what `Splits.record` holds; where they are not kept decoded, the SHA-256 is over their order.
    """
    digest = hashlib.sha256()
    parts = {"train": splits.train, "eval": splits.eval, "test": splits.test}
    for part in parts.values():
        for array in part.content():
            digest.update(np.ascontiguousarray(array).data)
    sizes = {name: len(part) for name, part in parts.items()}
    return {"dataset": splits.name, "seed": seed, **sizes, **splits.record, "sha256": digest.hexdigest()}


def check_same_run(then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Compares what a checkpoint records of its run with the run that is to go on from it.

    The fields of the configuration that may change (`jaxalex.config.MAY_CHANGE`) and the environment are left out.

    Args:
      then: the checkpoint's record.
      now: from `describe_run`.

    Raises:
      UsageError: they differ in configuration, data, JAX's settings or dropout key; the message lists every difference.
    """
    old, new = then.get("config"), now["config"]
    if isinstance(old, dict):
        old = dataclasses.asdict(TrainConfig()) | old  # a field that did not exist then had its default's effect
        old, new = ({k: v for k, v in d.items() if k not in config_lib.MAY_CHANGE} for d in (old, new))
    _refuse_another("config", old, new)
    _refuse_another("split", then.get("split"), now["split"])
    if others := settings.differences(then.get("settings"), now["settings"]):
        raise UsageError(f"was computed under other settings of JAX: {others}")
    _refuse_another("dropout_key", then.get("dropout_key"), now["dropout_key"])


def _refuse_another(part: str, then: Any, now: Any) -> None:
    if then != now:
        raise UsageError(f"is of another {part}: {differences(then, now)}")


def differences(then: Any, now: Any) -> str:
    """Every entry in which two records differ, for people.

    >>> differences({"seed": 0, "width": 1.0}, {"seed": 1, "width": 1.0})
    'seed 0 then, 1 now'
    """
    if not (isinstance(then, dict) and isinstance(now, dict)):
        return f"{then!r} then, {now!r} now"
    names = [name for name in {**then, **now} if then.get(name) != now.get(name)]
    return "; ".join(f"{name} {then.get(name)!r} then, {now.get(name)!r} now" for name in names)
