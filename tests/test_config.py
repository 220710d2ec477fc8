"""Configuration: what is refused, and in which words."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest

from jaxalex import config
from jaxalex.config import TrainConfig
from jaxalex.errors import UsageError


def test_the_baseline_is_the_published_job() -> None:
    baseline = config.from_recipe("baseline", {})
    values = (baseline.batch_size, baseline.num_epochs, baseline.learning_rate, baseline.momentum, baseline.init)
    assert values == (32, 20, 0.01, 0.9, "torch")
    assert (baseline.weight_decay, baseline.normalize, baseline.precision) == (0.0, "half", "float32")


def test_the_quickstart_pins_the_digits() -> None:
    quickstart = config.from_recipe("quickstart", {"batch_size": 64})
    assert (quickstart.dataset, quickstart.init, quickstart.num_epochs) == ("digits", "flax", 8)
    assert quickstart.batch_size == 64


def test_json_round_trip() -> None:
    original = config.from_recipe("quickstart", {"width": 0.5, "limit_train": 7, "data_dir": "some where"})
    assert config.from_dict(json.loads(config.to_json(original))) == original


def test_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainConfig().seed = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batch_size": 0}, "--batch-size must be from 1 to 1000000, not 0"),
        ({"batch_size": -3}, "--batch-size must be"),
        ({"batch_size": 2.5}, "--batch-size must be of type int, not 2.5"),
        ({"batch_size": True}, "--batch-size must be of type int, not True"),
        ({"num_epochs": 0}, "--num-epochs must be"),
        ({"learning_rate": 0.0}, "--learning-rate must be from 1.1755e-38 to 3.4028e+38, not 0.0"),
        ({"learning_rate": math.nan}, "--learning-rate must be from 1.1755e-38 to 3.4028e+38, not nan"),
        ({"learning_rate": math.inf}, "--learning-rate must be"),
        ({"momentum": 1.0}, "--momentum must be 0, or from 1.1755e-38 to 0.99999994, not 1.0"),
        ({"momentum": -0.1}, "--momentum must be"),
        ({"weight_decay": -1e-4}, "--weight-decay must be 0, or from 1.1755e-38 to 3.4028e+38, not -0.0001"),
        # What float32 would make infinite, zero or one.
        ({"learning_rate": 1e39}, "--learning-rate must be"),
        ({"learning_rate": 1e-60}, "--learning-rate must be"),
        ({"learning_rate": 1e-40}, "--learning-rate must be"),
        ({"momentum": 0.99999999999}, "--momentum must be"),
        ({"momentum": 1e-60}, "--momentum must be"),
        ({"weight_decay": 1e308}, "--weight-decay must be"),
        ({"weight_decay": 1e-60}, "--weight-decay must be"),
        ({"weight_decay": math.inf}, "--weight-decay must be"),
        ({"seed": -1}, "--seed must be from 0 to 4294967295, not -1"),
        ({"seed": 2**32}, "--seed must be"),
        ({"width": 0.0}, "--width must be"),
        ({"limit_train": 0}, "--limit-train must be at least 1, not 0"),
        ({"model": "vgg"}, "unknown --model 'vgg': known are cifar10, paper"),
        ({"dataset": "imagenet"}, "unknown --dataset 'imagenet': known are auto, cifar10, digits"),
        ({"recipe": "fast"}, "unknown --recipe 'fast'"),
        ({"precision": "float16"}, "unknown --precision"),
    ],
)
def test_values_out_of_range(values: dict, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        config.from_dict(values)
    assert message in str(caught.value)


def test_the_ends_of_the_ranges_are_numbers_that_float32_holds() -> None:
    import numpy as np

    for values in (
        {"learning_rate": 3.4028e38, "momentum": 0.99999994, "weight_decay": 3.4028e38},
        {"learning_rate": 1.1755e-38, "momentum": 1.1755e-38, "weight_decay": 1.1755e-38},
        {"momentum": 0, "weight_decay": 0},
    ):
        settings = config.from_dict(values)
        with np.errstate(all="raise"):
            rate, momentum, decay = map(np.float32, (settings.learning_rate, settings.momentum, settings.weight_decay))
        assert 0 < rate < np.inf
        assert 0 <= momentum < 1
        assert decay < np.inf
        assert min(x for x in (rate, momentum, decay) if x) >= np.finfo(np.float32).smallest_normal


def test_unknown_keys_are_all_named() -> None:
    with pytest.raises(UsageError, match="unknown configuration keys: epochs, lr; known are augment, batch_size"):
        config.from_dict({"lr": 0.1, "epochs": 3})
