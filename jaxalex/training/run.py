"""What stays the same through a training run."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable

import jax

from jaxalex import data
from jaxalex.config import TrainConfig
from jaxalex.training.epochs import CompiledEpoch
from jaxalex.training.keeper import Keeper


@dataclasses.dataclass(frozen=True)
class Run:
    """What stays the same from the first step to the last.

    Attributes:
      config: its configuration.
      workdir: its folder.
      say: gets every line for people.
      sharding: where its arrays lie.
      splits: its data.
      dropout_key: the key of everything that is drawn in training.
      compiled: the training steps.
      keeper: of its checkpoints.
      left_out: gets what is wrong with each picture that is left out.
    """

    config: TrainConfig
    workdir: pathlib.Path
    say: Callable[[str], None]
    sharding: jax.sharding.Sharding
    splits: data.Splits[data.Images]
    dropout_key: jax.Array
    compiled: CompiledEpoch
    keeper: Keeper
    left_out: Callable[[str], None]
