"""JAX's settings that decide numbers: recorded with a run, compared when it is resumed, no matter to an evaluation."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Iterator

import jax
import pytest

from jaxalex import evaluate, train
from jaxalex.system import settings
from reliability.runs import SMALL, assert_same

OTHERS = [("jax_enable_x64", True), ("jax_default_prng_impl", "rbg"), ("jax_default_matmul_precision", "bfloat16")]
_SLOW = pytest.mark.slow
_SLOWER = [pytest.param(*other, marks=_SLOW) for other in OTHERS[1:]]


@pytest.fixture
def change() -> Iterator[Callable[[str, object], None]]:
    """Changes one of JAX's settings, as its environment variable does, for one test."""
    before: dict[str, object] = {}

    def change(name: str, value: object) -> None:
        before.setdefault(name, getattr(jax.config, name))
        jax.config.update(name, value)

    yield change
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.mark.parametrize(("name", "value"), [OTHERS[0], *_SLOWER])
def test_a_run_is_not_resumed_under_other_settings(name, value, copy, change, capsys) -> None:
    run, default = copy(), getattr(jax.config, name)
    before = sorted(run.rglob("*"))
    change(name, value)
    assert train.main(["--resume", str(run), "--num-epochs", "4"]) == 2
    error = capsys.readouterr().err
    assert f"{run / 'checkpoints' / '36'}: was computed under other settings of JAX: " in error
    assert f"{name} {default!r} then, {value!r} now: unset {name.upper()}\n" in error
    assert error.count("\n") == 1
    assert sorted(run.rglob("*")) == before


@pytest.mark.parametrize(("name", "value"), [OTHERS[0], *_SLOWER])
def test_a_run_under_other_settings_resumes_bit_for_bit(name, value, tmp_path, change, capsys) -> None:
    change(name, value)
    run, whole = tmp_path / "run", tmp_path / "whole"
    assert train.main([*SMALL, "--num-epochs", "2", "--workdir", str(whole)]) == 0
    assert train.main([*SMALL, "--num-epochs", "1", "--workdir", str(run)]) == 0
    assert train.main(["--resume", str(run), "--num-epochs", "2"]) == 0
    assert_same(run, whole)
    assert json.loads((run / "summary.json").read_text())["settings"][name] == value
    assert capsys.readouterr().err == ""


def test_a_checkpoint_without_settings_is_of_jaxs_defaults(copy, change, capsys) -> None:
    run = copy()
    for folder in (run / "checkpoints").iterdir():
        record = json.loads((folder / "record.json").read_text())
        assert record.pop("settings") == settings.current()
        _replace_record(folder, record)
    assert train.main(["--resume", str(run)]) == 0
    change("jax_enable_x64", True)
    assert train.main(["--resume", str(run)]) == 2
    assert "jax_enable_x64 False then, True now" in capsys.readouterr().err


def test_settings_that_make_no_sense(copy, capsys) -> None:
    run = copy()
    folder = run / "checkpoints" / "36"
    _replace_record(folder, json.loads((folder / "record.json").read_text()) | {"settings": ["x64"]})
    assert train.main(["--resume", str(run)]) == 2
    assert "was computed under other settings of JAX: ['x64'] then\n" in capsys.readouterr().err


@pytest.mark.slow
def test_other_flags_of_xla_are_told(copy, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    run, then = copy(), os.environ.get("XLA_FLAGS")
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_deterministic_ops=true")
    assert train.main(["--resume", str(run)]) == 0
    assert f"note: XLA_FLAGS {then!r} then, '--xla_gpu_deterministic_ops=true' now: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "value"),
    [
        OTHERS[0],
        *_SLOWER,
        pytest.param("jax_disable_jit", True, marks=_SLOW),
        pytest.param("jax_debug_nans", True, marks=_SLOW),
    ],
)
def test_an_evaluation_is_the_same_under_all(name, value, unbroken, change, capsys) -> None:
    assert evaluate.main([str(unbroken)]) == 0
    expected = capsys.readouterr()
    change(name, value)
    assert evaluate.main([str(unbroken)]) == 0
    assert capsys.readouterr() == expected
    assert expected.err == ""


@pytest.mark.parametrize("name", [pytest.param(name, marks=_SLOW) for name in ("jax_debug_nans", "jax_debug_infs")])
def test_a_search_for_bad_numbers_names_the_step(name, tmp_path, change, capsys) -> None:
    change(name, True)
    flags = [*SMALL, "--num-epochs", "1", "--learning-rate", "1e30"]
    assert train.main([*flags, "--workdir", str(tmp_path / "a")]) == 1
    error = capsys.readouterr().err
    assert "at step 2 of 12 (epoch 1 of 1), learning rate 1e+30: try a lower --learning-rate, " in error
    assert error.count("\n") == 1
    assert train.main([*flags, "--on-nonfinite", "skip", "--workdir", str(tmp_path / "b")]) == 1
    error = capsys.readouterr().err
    assert "learning rate 1e+30: try a lower --learning-rate, or another --init (" in error
    assert error.count("\n") == 1


@pytest.mark.slow
def test_without_compilation_no_training(tmp_path, change, capsys) -> None:
    change("jax_disable_jit", True)
    assert train.main([*SMALL, "--num-epochs", "1", "--workdir", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: JAX_DISABLE_JIT=1 cannot be used: ")
    assert error.count("\n") == 1


def test_a_device_that_is_not_there(tmp_path, change, capsys) -> None:
    change("jax_default_device", "tpu")
    assert train.main([*SMALL, "--num-epochs", "1", "--workdir", str(tmp_path / "run")]) == 2
    assert "JAX_DEFAULT_DEVICE=tpu: JAX finds no such device here: unset it" in capsys.readouterr().err


def _replace_record(folder: pathlib.Path, record: dict) -> None:
    """Another record, under its right checksum."""
    (folder / "record.json").write_text(json.dumps(record))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["record.json"] = hashlib.sha256((folder / "record.json").read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
