"""The 2012 paper's recipe: its values, its learning rate, its tests, and a run with all of it from end to end."""

from __future__ import annotations

import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors.numpy import load_file

from jaxalex import config, evaluate, train
from jaxalex.data import ImageSet, Splits
from jaxalex.errors import UsageError
from jaxalex.training import loop, optim, progress, report
from jaxalex.training.schedule import plateau_learning_rate
from jaxalex.training.state import input_scale

pytestmark = pytest.mark.usefixtures("small_pictures")


def test_the_recipe_is_the_papers() -> None:
    """Krizhevsky et al. 2012, sections 3, 4.1 and 5."""
    recipe = config.from_recipe("paper", {"dataset": "cifar10"})
    assert (recipe.model, recipe.init, recipe.augment, recipe.test_crops) == ("original", "paper", "paper", 10)
    assert (recipe.batch_size, recipe.momentum, recipe.weight_decay) == (128, 0.9, 0.0005)
    assert (recipe.learning_rate, recipe.schedule, recipe.num_epochs) == (0.01, "plateau", 90)
    assert config.from_recipe("paper", {"dataset": "digits", "num_epochs": 2}).num_epochs == 2


def test_what_is_refused(tmp_path, capsys) -> None:
    with pytest.raises(UsageError, match="--recipe paper leaves the data to you: give --dataset"):
        config.from_recipe("paper", {})
    with pytest.raises(UsageError, match=r"unknown --augment 'all': known are none, paper"):
        config.from_dict({"augment": "all"})
    for main, arguments in ((train.main, ["--dataset", "digits"]), (evaluate.main, [str(tmp_path)])):
        assert main([*arguments, "--test-crops", "7"]) == 2
        assert capsys.readouterr().err == "error: --test-crops must be 1 or 10, not 7\n"


@pytest.mark.parametrize(
    ("accuracies", "patience", "divisions"),
    [
        ([10, 20, 30], 1, 0),
        ([10, 20, 20], 1, 1),  # as good is no better
        ([30, 20, 29, 31, 30, 30], 3, 0),  # the new best one comes just in time
        ([30, 20, 29, 28, 31], 3, 1),
        ([30, 29, 29, 29, 29, 29], 3, 1),  # three again before the next division
        ([30, 29, 29, 29, 29, 29, 29], 3, 2),
        ([30, *[29] * 100], 3, 3),  # and no fourth
    ],
)
def test_when_the_learning_rate_falls(accuracies: list[float], patience: int, divisions: int) -> None:
    expected = [0.01, 0.001, 0.0001, 0.00001][divisions]
    assert plateau_learning_rate(0.01, accuracies, patience) == pytest.approx(expected, rel=1e-12)


def test_the_rate_changes_in_one_compiled_program() -> None:
    """Against `sgd` bit for bit, then PyTorch's rule and the paper's by hand; one compiled program does it."""
    start, gradients = np.array([1.0, -2.0], np.float32), np.array([[0.5, 1.0], [-1.0, 0.25], [2.0, 0.5]], np.float32)
    tx, fixed = optim.adjustable_sgd(0.1, 0.9, 0.0005), optim.sgd(0.1, 0.9, 0.0005)

    def step(params, state, gradient):
        updates, state = tx.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    params, state = jnp.asarray(start), tx.init(start)
    compiled = jax.jit(step).lower(params, state, gradients[0]).compile()
    other, other_state = jnp.asarray(start), fixed.init(start)
    for gradient in gradients[:2]:
        params, state = compiled(params, state, gradient)
        updates, other_state = jax.jit(fixed.update)(gradient, other_state, other)
        other = optax.apply_updates(other, updates)
    np.testing.assert_array_equal(params, other)
    params, state = compiled(params, optim.with_learning_rate(state, 0.01), gradients[2])

    w = paper = start.astype(float)
    v = paper_v = np.zeros(2)
    for rate, gradient in zip((0.1, 0.1, 0.01), gradients.astype(float), strict=True):
        v = 0.9 * v + gradient + 0.0005 * w
        w = w - rate * v
        if rate == 0.1:  # the paper's form, the rate inside the velocity: the same while it is constant
            paper_v = 0.9 * paper_v - 0.0005 * rate * paper - rate * gradient
            paper = paper + paper_v
            np.testing.assert_allclose(paper, w, rtol=1e-12)
    np.testing.assert_allclose(params, w, rtol=1e-6)


def test_top5_by_hand() -> None:
    logits = np.array([[9, 8, 7, 6, 5, 4], [1, 2, 3, 4, 5, 6], [0, 0, 0, 0, 0, 0], [7, 1, 1, 1, 1, 1]], np.float32)
    # Fifth; sixth; the last of equal ones; class 4 as the fifth of equal ones.
    assert report.top5_accuracy(logits, np.array([4, 0, 5, 4], np.int32)) == 50
    assert report.top5_accuracy(logits[:, :5], np.array([4, 0, 3, 4], np.int32)) is None


def test_the_mean_is_subtracted_on_the_scale_of_255() -> None:
    images = np.array([[[[10, 200, 3]]], [[[30, 100, 4]]]], np.uint8)
    mean, std = input_scale("mean", images)
    np.testing.assert_allclose((images / 255 - mean) / std, [[[[-10, 50, -0.5]]], [[[10, -50, 0.5]]]], atol=1e-4)


def test_runs_of_before_go_on() -> None:
    """What was recorded without the fields that came later has their defaults."""
    now = {"config": json.loads(config.to_json(config.TrainConfig())), "split": {}, "settings": {}, "dropout_key": []}
    old = {name: value for name, value in now["config"].items() if name not in ("augment", "schedule", "test_crops")}
    progress.check_same_run({**now, "config": old}, now)
    with pytest.raises(UsageError, match="augment 'none' then, 'paper' now"):
        progress.check_same_run({**now, "config": old}, {**now, "config": now["config"] | {"augment": "paper"}})
    row = report.EpochRow(1, 2.3, 10.0, 2.3, 10.0, 1.0, 90.0)
    record = json.loads(json.dumps(progress.Progress(2, rows=(row,)).to_record()))
    assert "learning_rate" not in record["rows"][0]
    assert progress.Progress.from_record(record).rows == (row,)


def test_the_header_says_how_pictures_become_patches() -> None:
    def line(stored: int, **values: str) -> str:
        images = ImageSet(np.zeros((1, stored, stored, 3), np.uint8), np.zeros(1, np.int32))
        splits = Splits("digits", "here", images, images, images, tuple("0123456789"))
        settings = config.from_recipe("paper", {"dataset": "digits", **values})
        return report.header_lines(settings, splits, 5, 224, "cpu")[3]

    assert "original (random patches of 224x224), 5 parameters" in line(256)
    assert "original (random patches of 32x32, resized to 224x224), 5 parameters" in line(32)
    assert "original (images resized to 224x224), 5 parameters" in line(256, augment="none")


@pytest.mark.slow
def test_a_run_from_end_to_end(tmp_path, capsys) -> None:
    """The learning rate falls; resumed from inside an epoch after that, the run ends as it had ended, bit for bit."""
    settings = config.from_recipe(
        "paper",
        # PyTorch's initialisation: the evaluation stays where it is for hundreds of steps, and the rate falls at once.
        {"dataset": "digits", "model": "cifar10", "width": 0.05, "init": "torch", "normalize": "half"}
        | {"limit_train": 90, "limit_eval": 10, "batch_size": 8, "num_epochs": 3, "patience": 1}
        | {"learning_rate": 0.001, "checkpoint_every": "5", "keep": 9},
    )
    lines: list[str] = []
    summary = loop.train_and_evaluate(settings, tmp_path / "whole", lines.append)
    rows = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    accuracies = [row["eval_accuracy"] for row in rows]
    rates = [row["learning_rate"] for row in rows]
    assert rates == [plateau_learning_rate(0.001, accuracies[:n], 1) for n in range(3)]
    assert rates[2] < rates[0]
    assert any(re.fullmatch(r"learning rate 0.0001 from epoch \d on: the evaluation has stopped.*", x) for x in lines)
    assert {"test_top5_accuracy", "ten_crop_test_loss", "ten_crop_test_accuracy"} <= set(summary)

    shutil.copytree(tmp_path / "whole", tmp_path / "broken")
    shutil.rmtree(tmp_path / "broken" / "checkpoints" / "36")  # 12 steps an epoch
    assert train.main(["--resume", str(tmp_path / "broken")]) == 0
    output = capsys.readouterr().out
    assert "going on   after step 35, in epoch 3" in output
    again = [json.loads(line) for line in (tmp_path / "broken" / "metrics.jsonl").read_text().splitlines()]
    timings = {"seconds": 0, "images_per_second": 0}
    assert [row | timings for row in again] == [row | timings for row in rows]
    weights = [load_file(tmp_path / run / "model.safetensors") for run in ("whole", "broken")]
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[0])

    results = output.splitlines()[-3:-1]
    assert results[0].startswith("[Test     ] loss: ")
    assert results[1].startswith("[10 crops ] loss: ")
    assert evaluate.main([str(tmp_path / "broken")]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == results
