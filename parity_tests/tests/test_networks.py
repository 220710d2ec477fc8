"""Both networks at full width, and the CIFAR-10 network's training for 100 steps in float64."""

from __future__ import annotations

import numpy as np
import pytest

from netparity import bounds, levels
from netparity.levels import Pair
from parity_tests.alexnet import data as data_level
from parity_tests.alexnet import trajectory
from parity_tests.alexnet.networks import Case, make_inputs
from parity_tests.alexnet.programs import programs


@pytest.mark.parametrize("model", ["cifar10", "paper"])
def test_shapes_forward_and_gradients_at_full_width(model):
    case = Case(model, batch_size=2)
    jax_program, torch_program = programs(case)
    inputs = make_inputs(case)
    pair = Pair(jax_program.side, torch_program.side, inputs.params, inputs.images, inputs.labels)
    layers, checks, flips = levels.network(pair, ["float64", "float32"])
    assert [row for row in layers if not row.passed] == []
    assert [one for one in checks if not one.passed] == []
    assert len({row.stage for row in layers}) == 20
    assert {one.side for one in flips} == {"jax", "torch"}


def test_a_hundred_steps_in_float64_at_full_width():
    case, steps = Case("cifar10", batch_size=4), 100
    images = data_level.load_images().splits.train
    batches = trajectory.batches(images.images[:400], images.labels[:400], 4, steps)
    found, checks = trajectory.run(*programs(case), make_inputs(case).params, batches, ["float64"])
    assert len(found.float64_difference) == steps
    assert max(found.float64_difference) <= bounds.TRAJECTORY_LIMIT
    assert [one for one in checks if not one.passed] == []


def test_float32_trajectories_part_no_faster_than_chaos():
    case = Case("cifar10", 1 / 8, num_classes=10)
    images = data_level.load_images().splits.train
    batches = trajectory.batches(images.images[:320], images.labels[:320], 8, 40)
    found, checks = trajectory.run(*programs(case), make_inputs(case).params, batches, ["float64", "float32"])
    assert [one for one in checks if not one.passed] == []
    assert found.ratio is not None
    assert 0 < found.ratio <= bounds.CHAOS_LIMIT
    assert np.isfinite(found.controls).all()
