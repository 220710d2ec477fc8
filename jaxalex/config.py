"""The configuration of a training run: one frozen dataclass, named recipes, and every check of a value.

Imports nothing heavy, so that a wrong flag is refused at once.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping
from typing import Any

from jaxalex.errors import UsageError

MODELS = ("cifar10", "paper")
DATASETS = ("auto", "cifar10", "digits")
INITS = ("torch", "flax", "he", "paper")
NORMALIZATIONS = ("half", "dataset")
DEVICES = ("auto", "cpu", "gpu")
PRECISIONS = ("float32", "tf32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """All that decides a run's result, next to the data and the versions. Saved as ``config.json``.

    Attributes:
      recipe: name of the recipe that the other values started from.
      model: "cifar10" or "paper".
      width: factor on hidden channels and units; 1.0 is the published network.
      dataset: "auto", "cifar10" or "digits".
      data_dir: where the data lies or goes; None means JAXALEX_DATA_DIR, else tensorflow-datasets' folder.
      batch_size: samples a step.
      num_epochs: passes over the training set.
      learning_rate: of SGD, constant.
      momentum: of SGD, in [0, 1).
      weight_decay: coupled (added to the gradient), as in torch.optim.SGD.
      seed: of the split, the initial parameters, the order of samples and dropout.
      init: "torch", "flax", "he" or "paper": see `jaxalex.initializers`.
      normalize: "half", (x/255 - 0.5)/0.5, or "dataset", by the mean and deviation of the train split.
      device: "auto", "cpu" or "gpu".
      precision: "float32" (full, on every device), "tf32" or "bfloat16" (float32 parameters and loss).
      limit_train: train on the first N samples of the shuffled train split; None means all.
      limit_eval: evaluate and test on the first N samples each; None means all.

    Raises:
      UsageError: naming the first value out of range and the range.
    """

    recipe: str = "baseline"
    model: str = "cifar10"
    width: float = 1.0
    dataset: str = "auto"
    data_dir: str | None = None
    batch_size: int = 32
    num_epochs: int = 20
    learning_rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 0.0
    seed: int = 0
    init: str = "torch"
    normalize: str = "half"
    device: str = "auto"
    precision: str = "float32"
    limit_train: int | None = None
    limit_eval: int | None = None

    def __post_init__(self) -> None:
        for field, hint in typing.get_type_hints(TrainConfig).items():
            _check_type(field, getattr(self, field), hint)
        for field, known in _CHOICES.items():
            if getattr(self, field) not in known:
                raise UsageError(f"unknown {_flag(field)} {getattr(self, field)!r}: known are {', '.join(known)}")
        for field, (test, wanted) in _RANGES.items():
            value = getattr(self, field)
            if value is not None and not test(value):
                raise UsageError(f"{_flag(field)} must be {wanted}, not {value}")


# The project's own name for what each recipe is for; the values that differ from TrainConfig's defaults.
RECIPES: dict[str, dict[str, Any]] = {
    # CIFAR-10 as the plain PyTorch job has it: batch 32, 20 epochs, SGD 0.01 with momentum 0.9, PyTorch's init.
    "baseline": {},
    # The embedded digits, learned in minutes on two cores. With PyTorch's init they would sit at ln 10 for 5 epochs.
    "quickstart": {"dataset": "digits", "init": "flax", "num_epochs": 6},
}

_CHOICES = {
    "recipe": tuple(RECIPES),
    "model": MODELS,
    "dataset": DATASETS,
    "init": INITS,
    "normalize": NORMALIZATIONS,
    "device": DEVICES,
    "precision": PRECISIONS,
}

_RANGES: dict[str, tuple[Any, str]] = {
    "width": (lambda v: 0 < v <= 16, "above 0 and at most 16"),
    "batch_size": (lambda v: 1 <= v <= 1_000_000, "from 1 to 1000000"),
    "num_epochs": (lambda v: 1 <= v <= 1_000_000, "from 1 to 1000000"),
    "learning_rate": (lambda v: 0 < v < math.inf, "a finite number above 0"),
    "momentum": (lambda v: 0 <= v < 1, "at least 0 and below 1"),
    "weight_decay": (lambda v: 0 <= v < math.inf, "a finite number, at least 0"),
    "seed": (lambda v: 0 <= v < 2**32, "from 0 to 4294967295"),
    "limit_train": (lambda v: v >= 1, "at least 1"),
    "limit_eval": (lambda v: v >= 1, "at least 1"),
}


def _flag(field: str) -> str:
    return "--" + field.replace("_", "-")


def _check_type(field: str, value: Any, hint: Any) -> None:
    allowed = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    ints_too = float in allowed and type(value) is int
    if type(value) not in allowed and not ints_too:
        names = " or ".join("null" if t is types.NoneType else t.__name__ for t in allowed)
        raise UsageError(f"{_flag(field)} must be of type {names}, not {value!r}")


def from_recipe(recipe: str, overrides: Mapping[str, Any]) -> TrainConfig:
    """The recipe's configuration with ``overrides`` on top.

    Raises:
      UsageError: for an unknown recipe, an unknown key or a value out of range.

    >>> from_recipe("quickstart", {"num_epochs": 2}).init
    'flax'
    """
    if recipe not in RECIPES:
        raise UsageError(f"unknown --recipe {recipe!r}: known are {', '.join(RECIPES)}")
    return from_dict({**RECIPES[recipe], **overrides, "recipe": recipe})


def from_dict(values: Mapping[str, Any]) -> TrainConfig:
    """The configuration that `to_json` wrote, as a dictionary.

    Raises:
      UsageError: listing all unknown keys, or naming a value out of range.
    """
    known = {field.name for field in dataclasses.fields(TrainConfig)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise UsageError(f"unknown configuration keys: {', '.join(unknown)}; known are {', '.join(sorted(known))}")
    return TrainConfig(**values)


def to_json(config: TrainConfig) -> str:
    """The text of ``config.json``."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"
