"""The persistent compilation cache: on by default, in the user's cache folder, and harmless."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import pytest

from jaxalex import train

SMALL = ["--recipe", "quickstart", "--width", "0.05", "--limit-train", "64", "--limit-eval", "10", "--num-epochs", "1"]


def _train(
    workdir: pathlib.Path, home: pathlib.Path, *flags: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if k not in {"JAX_COMPILATION_CACHE_DIR", "XDG_CACHE_HOME"}}
    command = [sys.executable, "-W", "error", "-m", "jaxalex.train", *SMALL, "--workdir", str(workdir), *flags]
    env |= {"HOME": str(home), "MPLCONFIGDIR": str(home / "matplotlib"), **variables}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env)


def _files(folder: pathlib.Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file() and not path.name.endswith("-atime")}


def _loss(workdir: pathlib.Path) -> float:
    return json.loads((workdir / "metrics.jsonl").read_text())["train_loss"]


def test_a_second_run_compiles_nothing_and_gives_the_same(tmp_path) -> None:
    cache = tmp_path / "home" / ".cache" / "jaxalex" / "xla"
    (tmp_path / "home").mkdir()
    first = _train(tmp_path / "a", tmp_path / "home")
    assert (first.returncode, first.stderr) == (0, "")
    kept = _files(cache)
    assert any("train_epoch" in name for name in kept)
    second = _train(tmp_path / "b", tmp_path / "home")
    assert (second.returncode, second.stderr) == (0, "")
    assert _files(cache) == kept
    assert _loss(tmp_path / "a") == _loss(tmp_path / "b")


def test_off_and_a_folder_of_ones_own(tmp_path) -> None:
    home, mine = tmp_path / "home", tmp_path / "mine"
    home.mkdir()
    assert _train(tmp_path / "a", home, "--compilation-cache", "off").returncode == 0
    assert not (home / ".cache" / "jaxalex").exists()
    assert _train(tmp_path / "b", home, "--compilation-cache", str(mine)).returncode == 0
    assert _files(mine)
    assert not (home / ".cache" / "jaxalex").exists()
    assert _loss(tmp_path / "a") == _loss(tmp_path / "b")


def test_a_home_that_cannot_be_written_is_a_note_only(tmp_path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    result = _train(tmp_path / "a", tmp_path, XDG_CACHE_HOME=str(blocked))
    assert result.returncode == 0
    assert result.stderr.startswith("note: no compilation cache: ")
    assert result.stderr.count("\n") == 1


def test_a_folder_asked_for_by_name_must_work(tmp_path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    code = train.main([*SMALL, "--workdir", str(tmp_path / "a"), "--compilation-cache", str(blocked / "x")])
    assert code == 2
    assert "cannot be created" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()
