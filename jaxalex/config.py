"""The configuration of a training run: one frozen dataclass, named recipes, and every check of a value.

Imports nothing heavy, so that a wrong flag is refused at once.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
import types
import typing
from collections.abc import Mapping
from typing import Any

from jaxalex.errors import UsageError
from jaxalex.networks.tables import NETWORKS
from jaxalex.system import files

MODELS = tuple(NETWORKS)
DATASETS = ("auto", "cifar10", "digits")  # besides folder:PATH and tfds:NAME
INITS = ("torch", "flax", "he", "paper")
NORMALIZATIONS = ("half", "dataset", "mean", "weights")
AUGMENTATIONS = ("none", "paper")
SCHEDULES = ("constant", "plateau")
DEVICES = ("auto", "cpu", "gpu")
PRECISIONS = ("float32", "tf32", "bfloat16")
NONFINITE = ("stop", "skip")
BAD_IMAGES = ("stop", "skip")
KEEP_DECODED = ("auto", "always", "never")
# What may change when a run is resumed: none of it decides a result that exists already.
# (The data's content is checked, wherever it lies.)
MAY_CHANGE = frozenset(
    {"num_epochs", "data_dir", "checkpoint_every", "keep", "on_bad_image", "keep_decoded", "data_workers"}
)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a run's result, besides the data and the versions. Saved as ``config.json``.

    Attributes:
      recipe: the named recipe whose values were the starting point.
      model: "cifar10", "paper", "original" or "torchvision".
      width: factor on hidden channels and units; 1.0 is the published network.
      dataset: "auto", "cifar10", "digits", "folder:PATH" or "tfds:NAME".
      data_dir: the folder of CIFAR-10 or of what TFDS prepared; None means JAXALEX_DATA_DIR, else
        tensorflow-datasets' folder.
      batch_size: samples per step.
      num_epochs: passes over the training set.
      learning_rate: of SGD, to begin with; like momentum and weight decay within float32's range.
      schedule: "constant", or "plateau": divided by 10, three times at most, when the evaluation stops improving.
      patience: epochs in a row without a better evaluation after which "plateau" divides.
      momentum: of SGD, in [0, 1).
      weight_decay: coupled (added to the gradient), as in torch.optim.SGD.
      seed: of the split, the initial parameters, the order of samples and dropout.
      init: "torch", "flax", "he" or "paper": see `jaxalex.networks.initializers`.
      weights: the ``.safetensors`` file that the run starts from, by its absolute name; None means an initialisation.
      normalize: "half", (x/255 - 0.5)/0.5; "dataset", by the mean and deviation of the train split; "mean", x less the
        mean of the train split, on the scale of 255; or "weights", by those in the weights file.
      augment: "none", or "paper": training pictures are cropped, mirrored and shifted in colour at random, and the
        evaluation sees the central crop (`jaxalex.training.augment`).
      test_crops: 1, or 10 to test with ten crops, too.
      device: "auto", "cpu" or "gpu".
      precision: "float32" (full, on every device), "tf32" or "bfloat16" (float32 parameters and loss).
      limit_train: train on the first N samples of the shuffled train split; None means all.
      limit_eval: evaluate and test on the first N samples each; None means all.
      on_nonfinite: "stop" the run when a loss or gradient is not finite, or "skip" that step.
      checkpoint_every: steps ("500") or minutes ("5m") between checkpoints inside an epoch; None means only after
        each epoch.
      keep: how many of the latest checkpoints are kept, besides the best one.
      on_bad_image: "stop" at a photograph that cannot be decoded, or "skip" it.
      keep_decoded: decoded photographs are kept in memory "always", "never", or ("auto") where they take no more than
        half of what is free. It changes nothing in what is learned, unless pictures are skipped.
      data_workers: processes that decode photographs which are not kept; 0 for threads.

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
    schedule: str = "constant"
    patience: int = 3
    momentum: float = 0.9
    weight_decay: float = 0.0
    seed: int = 0
    init: str = "torch"
    weights: str | None = None
    normalize: str = "half"
    augment: str = "none"
    test_crops: int = 1
    device: str = "auto"
    precision: str = "float32"
    limit_train: int | None = None
    limit_eval: int | None = None
    on_nonfinite: str = "stop"
    checkpoint_every: str | None = None
    keep: int = 2
    on_bad_image: str = "stop"
    keep_decoded: str = "auto"
    data_workers: int = 0

    def __post_init__(self) -> None:
        for field, hint in typing.get_type_hints(TrainConfig).items():
            _check_type(field, getattr(self, field), hint)
        for field, known in _CHOICES.items():
            if getattr(self, field) not in known:
                raise UsageError(f"unknown {_flag(field)} {getattr(self, field)!r}: known are {', '.join(known)}")
        check_dataset(self.dataset)
        for field in _RANGES:
            check_range(field, getattr(self, field))
        if self.recipe == "paper" and self.dataset == "auto":
            raise UsageError("--recipe paper leaves the data to you: give --dataset, as in --dataset cifar10")
        if self.normalize == "weights" and self.weights is None:
            raise UsageError("--normalize weights takes the weights file's mean and std: give --weights FILE")


# By name, the values in which each recipe differs from TrainConfig's defaults.
RECIPES: dict[str, dict[str, Any]] = {
    # CIFAR-10 as the plain PyTorch job has it: batch 32, 20 epochs, SGD 0.01 with momentum 0.9, PyTorch's init.
    "baseline": {},
    # The embedded digits, learned in minutes on two cores. With PyTorch's init they would sit at ln 10 for 5 epochs.
    "quickstart": {"dataset": "digits", "init": "flax", "num_epochs": 8},
    # Krizhevsky et al. 2012: docs/recipes.md gives each value's section.
    "paper": {
        "model": "original",
        "init": "paper",
        "normalize": "mean",
        "augment": "paper",
        "test_crops": 10,
        "batch_size": 128,
        "num_epochs": 90,
        "learning_rate": 0.01,
        "momentum": 0.9,
        "weight_decay": 0.0005,
        "schedule": "plateau",
    },
}

_CHOICES = {
    "recipe": tuple(RECIPES),
    "model": MODELS,
    "init": INITS,
    "normalize": NORMALIZATIONS,
    "augment": AUGMENTATIONS,
    "schedule": SCHEDULES,
    "device": DEVICES,
    "precision": PRECISIONS,
    "on_nonfinite": NONFINITE,
    "on_bad_image": BAD_IMAGES,
    "keep_decoded": KEEP_DECODED,
}

# What float32 can hold: its smallest normal number, its largest, and the one before 1, rounded inwards.
_SMALLEST, _LARGEST, _BELOW_ONE = 1.1755e-38, 3.4028e38, 0.99999994

_RANGES: dict[str, tuple[Any, str]] = {
    "width": (lambda v: 0 < v <= 16, "above 0 and at most 16"),
    "batch_size": (lambda v: 1 <= v <= 1_000_000, "from 1 to 1000000"),
    "num_epochs": (lambda v: 1 <= v <= 1_000_000, "from 1 to 1000000"),
    # All three are float32 in the step, where a smaller number than these counts as 0.
    "learning_rate": (lambda v: _SMALLEST <= v <= _LARGEST, f"from {_SMALLEST} to {_LARGEST}"),
    "momentum": (lambda v: v == 0 or _SMALLEST <= v <= _BELOW_ONE, f"0, or from {_SMALLEST} to {_BELOW_ONE}"),
    "weight_decay": (lambda v: v == 0 or _SMALLEST <= v <= _LARGEST, f"0, or from {_SMALLEST} to {_LARGEST}"),
    "patience": (lambda v: 1 <= v <= 1_000_000, "from 1 to 1000000"),
    "test_crops": (lambda v: v in (1, 10), "1 or 10"),
    "seed": (lambda v: 0 <= v < 2**32, "from 0 to 4294967295"),
    "limit_train": (lambda v: v >= 1, "at least 1"),
    "limit_eval": (lambda v: v >= 1, "at least 1"),
    "keep": (lambda v: 1 <= v <= 1_000_000, "from 1 to 1000000"),
    "data_workers": (lambda v: 0 <= v <= 1000, "from 0 to 1000"),
    "data_dir": (lambda v: "\0" not in v, "a name without NUL characters"),
    "weights": (lambda v: "\0" not in v, "a name without NUL characters"),
    "checkpoint_every": (
        lambda v: re.fullmatch("[1-9][0-9]{0,8}m?", v),
        "a number of steps (500) or of minutes (5m), at least 1",
    ),
}


def _flag(field: str) -> str:
    return "--" + field.replace("_", "-")


def check_range(field: str, value: Any) -> None:
    """Refuses a value that no run can have.

    Raises:
      UsageError: naming the flag and its range.
    """
    test, wanted = _RANGES[field]
    if value is not None and not test(value):
        raise UsageError(f"{_flag(field)} must be {wanted}, not {value!r}")


def check_dataset(dataset: str) -> None:
    """Refuses a name that no data set can have.

    Raises:
      UsageError: naming those that are known.
    """
    if dataset in DATASETS:
        return
    kind, _, rest = dataset.partition(":")
    if kind not in ("folder", "tfds"):
        known = ", ".join((*DATASETS, "folder:PATH", "tfds:NAME"))
        raise UsageError(f"unknown --dataset {dataset!r}: known are {known}")
    if not rest or not rest.isprintable():
        wanted = "folder:PATH" if kind == "folder" else "tfds:NAME"
        raise UsageError(f"--dataset {dataset!r}: must be {wanted}, of printable characters")


def _check_type(field: str, value: Any, hint: Any) -> None:
    allowed = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    ints_too = float in allowed and type(value) is int
    if type(value) not in allowed and not ints_too:
        names = " or ".join("null" if t is types.NoneType else t.__name__ for t in allowed)
        raise UsageError(f"{_flag(field)} must be of type {names}, not {value!r}")


def _recipe_values(recipe: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's values with ``overrides`` on top."""
    values = RECIPES[recipe]
    if values.get("normalize") == "mean" and overrides.get("init", values["init"]) != values["init"]:
        # The scale of 255 belongs to the paper's small kernels; from Flax's a run on photographs ended in NaN at once.
        values = values | {"normalize": "dataset"}
    return {**values, **overrides}


def from_recipe(recipe: str, overrides: Mapping[str, Any]) -> TrainConfig:
    """The recipe's configuration with ``overrides`` on top.

    With another initialisation than its own, the recipe "paper" normalises to deviation 1.

    Raises:
      UsageError: for an unknown recipe, an unknown key or a value out of range.

    >>> from_recipe("quickstart", {"num_epochs": 2}).init
    'flax'
    >>> from_recipe("paper", {"init": "flax", "dataset": "digits"}).normalize
    'dataset'
    """
    if recipe not in RECIPES:
        raise UsageError(f"unknown --recipe {recipe!r}: known are {', '.join(RECIPES)}")
    return from_dict(_recipe_values(recipe, overrides) | {"recipe": recipe})


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
    return files.to_json(dataclasses.asdict(config))


def read(run: pathlib.Path) -> TrainConfig:
    """The configuration of a run folder.

    Raises:
      UsageError: if the folder is no run folder, or naming what is wrong in its ``config.json``.
    """
    file = run / "config.json"
    if not file.exists():
        raise UsageError(f"{run}: is no run folder ({file.name} is not there)")
    values = files.read_json(file)
    try:
        return from_dict(values)
    except UsageError as error:
        raise UsageError(f"{file}: {error}") from error


def resumed(run: pathlib.Path, given: Mapping[str, Any]) -> TrainConfig:
    """The configuration with which a run is resumed: the saved one, which ``given`` must not contradict.

    Args:
      run: a run folder.
      given: values by field; a recipe stands for its values. Fields in `MAY_CHANGE` may differ, but the number of
        epochs may only grow.

    Raises:
      UsageError: listing every value that differs.
    """
    saved = read(run)
    wanted = _recipe_values(given["recipe"], given) if given.get("recipe") in RECIPES else dict(given)
    changes = {name: value for name, value in wanted.items() if getattr(saved, name, None) != value}
    problems = [
        f"{_flag(name)} is {getattr(saved, name, None)} in the run, not {value}"
        for name, value in changes.items()
        if name not in MAY_CHANGE
    ]
    if changes.get("num_epochs", saved.num_epochs) < saved.num_epochs:
        problems.append(f"--num-epochs is {saved.num_epochs} in the run and may only grow, not {changes['num_epochs']}")
    if problems:
        raise UsageError(f"cannot go on with {run} as another run: " + "; ".join(problems))
    return from_dict({**dataclasses.asdict(saved), **changes})


def parse_every(text: str | None) -> tuple[int | None, float | None]:
    """Steps and seconds between two checkpoints; None means never.

    >>> parse_every("500"), parse_every("5m"), parse_every(None)
    ((500, None), (None, 300.0), (None, None))
    """
    if text is None:
        return None, None
    if text.endswith("m"):
        return None, 60.0 * int(text[:-1])
    return int(text), None
