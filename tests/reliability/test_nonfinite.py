"""Losses and gradients that are not finite, and batches that are too large."""

from __future__ import annotations

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalex import config, train
from jaxalex.data import ImageSet
from jaxalex.errors import NotFiniteError, RunError
from jaxalex.training import epochs, folder, optim, placement
from jaxalex.training.checkpoint import Checkpoints
from jaxalex.training.state import TrainState
from reliability.runs import SMALL, like, small

_TX = optim.sgd(0.1, 0.9)


def _network(variables, images, train=False, rngs=None):
    """Two logits from the image's mean. White images give NaN, black ones an infinite gradient (a root at 0)."""
    weight = variables["params"]["weight"]
    x = jnp.mean(images, axis=(1, 2, 3))[:, None]  # from -1 (black) to 1 (white)
    black = jnp.all(x <= -1)
    root = jnp.sqrt(jnp.where(black, weight - weight, 1.0))
    logits = x * weight[None] + jnp.where(black, root, 0.0)[None]
    return jnp.where(jnp.any(x >= 1), jnp.nan, logits)


def _state() -> TrainState:
    params, mean, std = {"weight": jnp.array([0.5, -0.5])}, jnp.full(1, 0.5), jnp.full(1, 0.5)
    state = TrainState.create(apply_fn=_network, params=params, tx=_TX, mean=mean, std=std, image_hw=(2, 2))
    return state.replace(step=jnp.zeros((), jnp.int32))


def _placed(levels: list[int]) -> placement.Placed:
    images = np.array(levels, np.uint8).reshape(-1, 1, 1, 1).repeat(2, axis=1).repeat(2, axis=2)
    labels = (np.arange(len(levels)) % 2).astype(np.int32)
    return placement.place(ImageSet(images, labels), placement.on_device(jax.devices("cpu")[0]))


_ROWS = np.arange(6, dtype=np.int32).reshape(3, 2)


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ([10, 20, 30, 255, 50, 60], r"the loss is nan at step 2 of 3 \(epoch 4\)"),
        ([10, 20, 0, 0, 50, 60], r"the gradient is not finite at step 2 of 3 \(epoch 4\)"),
    ],
)
@pytest.mark.parametrize("at_once", [False, True])
def test_the_step_is_named(levels, message, at_once, monkeypatch) -> None:
    if at_once:  # as on a GPU: all steps in one dispatch
        monkeypatch.setattr(epochs, "_STEPS_PER_DISPATCH", {})
        message = r"the loss or its gradient is not finite at step 2 of 3 \(epoch 4\)"
    placed, key = _placed(levels), jax.random.key(0)
    compiled = epochs.compile_epoch(_state(), placed, 2, key)
    with pytest.raises(NotFiniteError, match=message):
        epochs.train_one_epoch(compiled, _state(), placed, _ROWS, key, "epoch 4")


@pytest.mark.parametrize("levels", [[10, 20, 30, 255, 50, 60], [10, 20, 0, 0, 50, 60]])
@pytest.mark.parametrize("at_once", [False, True])
def test_skipped_steps_change_nothing_and_are_counted(levels, at_once, monkeypatch) -> None:
    if at_once:
        monkeypatch.setattr(epochs, "_STEPS_PER_DISPATCH", {})
    placed, key = _placed(levels), jax.random.key(0)
    compiled = epochs.compile_epoch(_state(), placed, 2, key, skip_nonfinite=True)
    state, tally = epochs.train_one_epoch(compiled, _state(), placed, _ROWS, key)
    good = epochs.compile_epoch(_state(), _placed([10, 20, 50, 60]), 2, key)
    expected, good_tally = epochs.train_one_epoch(good, _state(), _placed([10, 20, 50, 60]), _ROWS[:2], key)
    assert (tally.step, tally.skipped, tally.count) == (3, 1, 4)
    assert (int(state.step), int(expected.step)) == (3, 2)
    assert tally.loss == pytest.approx(good_tally.loss, rel=1e-6)
    np.testing.assert_allclose(state.params["weight"], expected.params["weight"], rtol=1e-6)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((state.params, state.opt_state)))


@pytest.mark.slow
def test_skipping_a_run_through_shows_the_count(tmp_path, capsys, monkeypatch) -> None:
    """One white picture among the real ones, for a network whose logits are then NaN."""
    from jaxalex import evaluate, models
    from jaxalex.data import digits

    real, poisoned = models.AlexNet.__call__, digits.load()
    poisoned.train.images[:] = np.minimum(poisoned.train.images, 254)
    from jaxalex.data.splits import split_indices

    poisoned.train.images[split_indices(len(poisoned.train), 0)[0][7]] = 255

    def call(self, images, *args, **kwargs):
        out = real(self, images, *args, **kwargs)
        bad = jnp.any(jnp.all(images >= 1, axis=(1, 2, 3)))
        return jax.tree.map(lambda x: jnp.where(bad, jnp.nan, x), out)

    monkeypatch.setattr(digits, "load", lambda: poisoned)
    monkeypatch.setattr(models.AlexNet, "__call__", call)
    run = tmp_path / "run"
    flags = [*SMALL, "--width", "0.07", "--num-epochs", "2"]  # a width of its own: no program of another test serves
    assert train.main([*flags, "--on-nonfinite", "skip", "--workdir", str(run)]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("[Epoch")]
    assert [line.endswith(" skipped_steps: 1") for line in lines] == [True, True]
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["skipped_steps"] for row in rows] == [1, 1]
    assert json.loads((run / "summary.json").read_text())["skipped_steps"] == 2
    assert evaluate.main([str(run)]) == 0
    assert train.main([*flags, "--workdir", str(tmp_path / "stopped")]) == 1
    assert re.search(r"loss is nan at step \d+ of 12 \(epoch 1 of 2\), learning rate 0\.01: ", capsys.readouterr().err)


@pytest.mark.slow
def test_a_rate_that_is_far_too_high(tmp_path, capsys) -> None:
    run = tmp_path / "run"
    assert train.main([*SMALL, "--num-epochs", "1", "--learning-rate", "1e30", "--workdir", str(run)]) == 1
    error = capsys.readouterr().err
    assert re.search(
        r"is (nan|inf|not finite) at step \d of 12 \(epoch 1 of 1\), learning rate 1e\+30: try a lower", error
    )
    assert error.endswith("--on-nonfinite skip (nothing was saved yet)\n")
    flags = ["--num-epochs", "1", "--learning-rate", "1e30", "--on-nonfinite", "skip"]
    assert train.main([*SMALL, *flags, "--workdir", str(tmp_path / "other")]) == 1
    error = capsys.readouterr().err
    assert "evaluation loss is" in error
    assert "learning rate 1e+30: try a lower --learning-rate, or another --init (" in error


@pytest.mark.slow
def test_a_weight_decay_that_is_far_too_high(tmp_path, capsys) -> None:
    flags = [*SMALL, "--num-epochs", "1", "--weight-decay", "1e30", "--workdir", str(tmp_path / "run")]
    assert train.main(flags) == 1
    error = capsys.readouterr().err
    assert ", learning rate 0.01, weight decay 1e+30: try a lower --weight-decay (nothing was saved yet)\n" in error


def test_no_state_that_is_not_finite_is_ever_saved(tmp_path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    good = like(small())
    checkpoints.save(1, good, {}, None)
    for part in ("params", "opt_state"):
        bad = jax.tree.map(lambda leaf: leaf, good)
        leaves, treedef = jax.tree.flatten(getattr(bad, part))
        leaves[-1] = leaves[-1].at[(0,) * leaves[-1].ndim].set(jnp.nan)
        bad = bad.replace(**{part: jax.tree.unflatten(treedef, leaves)})
        with pytest.raises(RunError, match="no longer finite after step 2, and were not saved"):
            checkpoints.save(2, bad, {}, None)
    assert checkpoints.steps() == [1]


@pytest.mark.slow
def test_too_large_a_batch_names_one_that_fits(tmp_path, capsys) -> None:
    run = tmp_path / "run"
    flags = ["--dataset", "digits", "--width", "0.2", "--batch-size", "1000000", "--workdir", str(run)]
    assert train.main(flags) == 1
    error = capsys.readouterr().err
    match = re.search(
        r"--batch-size 1000000 needs ([\d,.]+) GB beside .*, ([\d,.]+) GB are free; --batch-size (\d+) fits", error
    )
    assert match, error
    needed, free, fits = (float(text.replace(",", "")) for text in match.groups())
    assert needed > 100  # conv1's output and its gradient, 1,000,000 x 32 x 32 x 13 x 4 bytes each
    assert free < needed
    assert 0.1 * free / needed < fits / 1_000_000 <= 1.05 * free / needed
    assert not run.exists()


def test_settings_survive_the_config(tmp_path) -> None:
    settings = config.from_recipe("baseline", {"on_nonfinite": "skip", "checkpoint_every": "5m", "keep": 7})
    assert config.from_dict(json.loads(config.to_json(settings))) == settings
    assert folder.check(tmp_path) is None
