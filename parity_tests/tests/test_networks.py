"""The networks from shapes to gradients, and the CIFAR-10 network's training in lockstep."""

from __future__ import annotations

from collections.abc import Collection

import jax
import numpy as np
import pytest
import torch

from netparity import bounds, levels, pairs
from netparity.pairs import Pair
from parity_tests.alexnet import data, trajectory
from parity_tests.alexnet.networks import Case, make_inputs
from parity_tests.alexnet.programs import programs
from parity_tests.faults.bench import quick_programs

pytestmark = pytest.mark.users_programs

STAGES = {"cifar10": 20, "paper": 20, "original": 22, "torchvision": 21}


@pytest.mark.parametrize("model", ["original", "torchvision"])  # between them they have every kind of layer
def test_a_narrow_network_on_oblong_images(model):
    _check(Case(model, 1 / 16, num_classes=10, image_hw=(96, 128)), ["float64"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "dtypes"),
    [
        ("cifar10", pairs.DTYPES),
        ("original", pairs.DTYPES),
        ("paper", ["float64"]),
        ("torchvision", ["float64"]),
    ],
)
def test_at_full_width(model, dtypes):
    _check(Case(model), dtypes)


def _check(case: Case, dtypes: Collection[str]) -> None:
    jax_program, torch_program = programs(case)
    inputs = make_inputs(case)
    pair = Pair(jax_program.side, torch_program.side, inputs.params, inputs.images, inputs.labels)
    layers, checks, flips = levels.network(pair, dtypes, whole=["float64"])  # in float32 it is not judged
    assert [row for row in layers if not row.passed] == []
    assert [one for one in checks if not one.passed] == []
    assert len({row.stage for row in layers}) == STAGES[case.model]
    assert {one.side for one in flips} == ({"jax", "torch"} if "float32" in dtypes else set())


# A quarter of the width takes the same formulations on a CPU: they are chosen by the size of the pictures and by the
# number of channels, from 16 on.
@pytest.mark.parametrize(
    ("width", "made"),
    [
        pytest.param(0.25, quick_programs, id="quarter"),
        pytest.param(1.0, programs, id="full", marks=pytest.mark.slow),
    ],
)
def test_ten_steps_in_float64(width, made):
    steps = 10  # one of them on a partial batch
    case = Case("cifar10", width, batch_size=4)
    images = data.load_images().splits.train
    batches = trajectory.batches(images.images[:40], images.labels[:40], 4, steps)
    jax_program, torch_program = made(case)
    found, checks = trajectory.run(jax_program, torch_program, make_inputs(case).params, batches, ["float64"])
    assert len(found.float64_difference) == steps
    assert max(found.float64_difference) <= bounds.TRAJECTORY_LIMIT
    assert [one for one in checks if not one.passed] == []


@pytest.mark.slow
def test_float32_trajectories_part_no_faster_than_chaos():
    case = Case("cifar10", 1 / 8, num_classes=10)
    images = data.load_images().splits.train
    batches = trajectory.batches(images.images[:320], images.labels[:320], 8, 40)
    found, checks = trajectory.run(*quick_programs(case), make_inputs(case).params, batches, ["float64", "float32"])
    assert [one for one in checks if not one.passed] == []
    assert found.ratio is not None
    assert 0 < found.ratio <= bounds.CHAOS_LIMIT
    assert np.isfinite(found.controls).all()


def test_a_trajectory_and_the_metrics_leave_the_reference_as_it_was():
    case = Case("cifar10", 1 / 16, num_classes=10)
    jax_program, torch_program = quick_programs(case)
    module, params = torch_program.side.module, make_inputs(case).params
    images = data.load_digits().splits
    module.eval()
    module.get_submodule("fc1").train()  # a mode of its own, which one switch of the whole would not bring back
    modes = [part.training for part in module.modules()]
    before = {name: value.clone() for name, value in module.state_dict().items()}
    batches = trajectory.batches(images.train.images[:8], images.train.labels[:8], 4, 2)
    trajectory.run(jax_program, torch_program, params, batches, ["float64"])
    checks = list(data.metrics(jax_program, torch_program, params, images.test, (32, 32)))
    assert [one for one in checks if not one.passed] == []
    assert [part.training for part in module.modules()] == modes
    assert not any(part._forward_hooks for part in module.modules())
    after = module.state_dict()
    assert {name: value.dtype for name, value in after.items()} == dict.fromkeys(before, torch.float32)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(value.grad is None for value in module.parameters())


def test_runs_of_one_program_share_their_compiled_step():
    case = Case("cifar10", 1 / 16, num_classes=10)
    trees = []
    for seed in range(2):  # each time from programs of their own, as a planted fault leaves them
        program, _ = programs(case)
        settings = trajectory.Settings(seed=seed)
        run = trajectory.JaxRun(program, make_inputs(case, seed).params, "float32", settings, (32, 32))
        trees.append(jax.tree.structure(run.state))  # what jit knows a program by, beside shapes and dtypes
    assert len(set(trees)) == 1
