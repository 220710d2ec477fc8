"""The persistent compilation cache: on by default, in the user's cache folder, and harmless."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import zlib

import pytest

from jaxalex import train
from jaxalex.errors import UsageError
from jaxalex.system import compilation_cache

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


@pytest.mark.slow
def test_off_and_a_folder_of_ones_own(tmp_path) -> None:
    home, mine = tmp_path / "home", tmp_path / "mine"
    home.mkdir()
    assert _train(tmp_path / "a", home, "--compilation-cache", "off").returncode == 0
    assert not (home / ".cache" / "jaxalex").exists()
    assert _train(tmp_path / "b", home, "--compilation-cache", str(mine)).returncode == 0
    assert _files(mine)
    assert not (home / ".cache" / "jaxalex").exists()
    assert _loss(tmp_path / "a") == _loss(tmp_path / "b")


@pytest.mark.slow
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


@pytest.mark.slow
def test_damaged_entries_are_told_once_and_healed(tmp_path) -> None:
    cache = tmp_path / "home" / ".cache" / "jaxalex" / "xla"
    (tmp_path / "home").mkdir()
    assert _train(tmp_path / "a", tmp_path / "home").returncode == 0
    kept = _files(cache)
    for number, path in enumerate(sorted(cache.iterdir())):
        content = path.read_bytes()
        damaged = (
            content[: len(content) // 2],  # what a process leaves that is killed while it writes
            content[::-1],
            b"",
            zlib.compress(b"whatever" * 100),  # packed well, but no program
        )
        path.write_bytes(damaged[number % 4])
    healing = _train(tmp_path / "b", tmp_path / "home")
    assert healing.returncode == 0
    assert healing.stderr.startswith(f"note: {cache}: compiled programs were damaged, removed and compiled anew (")
    assert healing.stderr.count("\n") == 1
    assert _files(cache) == kept
    after = _train(tmp_path / "c", tmp_path / "home")
    assert (after.returncode, after.stderr) == (0, "")
    assert _files(cache) == kept
    assert _loss(tmp_path / "a") == _loss(tmp_path / "b") == _loss(tmp_path / "c")


def test_a_full_disk_is_told_once(tmp_path) -> None:
    """No file may become longer than 6 kB: most programs are. Of these, nothing is left."""
    pytest.importorskip("resource")
    cache = tmp_path / "cache"
    code = "from jaxalex.system import compilation_cache\n"
    code += f"import resource, pathlib; compilation_cache.enable(pathlib.Path({str(cache)!r}))\n"
    code += "resource.setrlimit(resource.RLIMIT_FSIZE, (6000, resource.RLIM_INFINITY))\n"
    code += "import jax; key = jax.random.key(0); print(jax.random.normal(jax.random.split(key)[0], (3, 3)).sum())"
    result = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0
    assert result.stderr.startswith(f"note: {cache}: compiled programs were not kept (OSError: [Errno 27] ")
    assert result.stderr.count("\n") == 1
    assert _files(cache)
    assert all(path.stat().st_size < 6000 for path in cache.iterdir())


@pytest.mark.parametrize("kind", ["pipe", "loop", "folder"])
def test_an_entry_that_is_no_file(tmp_path, kind: str, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading a pipe would never end."""
    cache = tmp_path / "jaxalex" / "xla"
    cache.mkdir(parents=True)
    strange = cache / "jit_something-0123-cache"
    {"pipe": os.mkfifo, "loop": lambda path: path.symlink_to(path.name), "folder": pathlib.Path.mkdir}[kind](strange)
    with pytest.raises(UsageError, match="jit_something-0123-cache: is not a regular file: remove it, or use another"):
        compilation_cache.enable(cache)
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compilation_cache.enable_for_command("on")
    error = capsys.readouterr().err
    assert error.startswith(f"note: no compilation cache: {strange}: is not a regular file: ")
    assert error.count("\n") == 1


def test_a_variable_that_names_no_folder(tmp_path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, prepare in (("file", lambda path: path.write_text("")), ("loop", lambda path: path.symlink_to("loop"))):
        prepare(tmp_path / name)
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / name))
        assert train.main([*SMALL, "--workdir", str(tmp_path / "a")]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: JAX_COMPILATION_CACHE_DIR: {tmp_path / name}: cannot be created (")
        assert error.count("\n") == 1
        assert not (tmp_path / "a").exists()
