"""Randomly damaged files and command lines: read or refused in one line, never a traceback or a hang."""

from __future__ import annotations

import os
import pathlib
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from jaxalex import evaluate, predict, summary, train
from reliability import fuzz
from reliability.mutate import arguments
from reliability.readers import READERS

INPUTS = 1000
COMMAND_LINES = 500
PROCESSES = 20


def test_damaged_files(tmp_path) -> None:
    outcome = fuzz.run(fuzz.trials(tmp_path, ["reliability.readers"]), count=INPUTS)
    assert outcome.failures == []
    assert outcome.inputs == INPUTS
    for name in READERS:
        assert outcome.counts[name, "refused"] > 0, f"{name} refused nothing"


_FLAGS = {
    "train": "--recipe --model --width --init --dataset --data-dir --normalize --limit-train --limit-eval --batch-size "
    "--num-epochs --learning-rate --momentum --weight-decay --seed --on-nonfinite --device --precision --workdir "
    "--checkpoint-every --keep --resume --gpu --help",
    "evaluate": "--checkpoint --device --model --width --normalize --dataset --data-dir --limit-eval",
    "predict": "--checkpoint --device --model --width --normalize --dataset --data-dir --top --chart",
    "summary": "--model --image-size --num-classes --input-channels --width --json",
}
_MAINS: dict[str, Callable[[list[str]], int]] = {
    "train": train.main,
    "evaluate": evaluate.main,
    "predict": predict.main,
    "summary": summary.main,
}
_VALUES = (
    "0 1 -1 2 3 32 0.05 1e-3 nan inf -inf 1e999 1e-320 99999999999999999999 0x10 1_000 ٣ auto cpu gpu cifar10 paper "
)
_VALUES += (
    "digits quickstart baseline flax torch he half dataset float32 bfloat16 tf32 best last stop skip 5m 0m -5m 5 "
)
_VALUES += (
    "none none/none . .. /dev/null ~nobody/x file run run/model.safetensors run/config.json run/curves.png -- - --"
)


def _command_lines(seed: int) -> tuple[str, list[str]]:
    rng = random.Random(seed)
    command = rng.choice(list(_FLAGS))
    values = [*_VALUES.split(" "), "", " ", "a\0b", "\udcff", "x" * 300, "\x1b[2J", "ä€", "a" * 5000]
    words = arguments(_FLAGS[command].split(), values, rng)
    if command in ("evaluate", "predict") and rng.random() < 0.9:
        words.insert(0, rng.choice(["run", "run/model.safetensors", "none", "file", "."]))
    if command == "predict" and rng.random() < 0.8:
        words.append(rng.choice(["run/curves.png", "file", "none"]))
    if command == "train":  # whatever is accepted is over soon
        words += ["--limit-train", "4", "--limit-eval", "2", "--num-epochs", "1", "--width", "0.02"]
        if rng.random() < 0.9:
            words += ["--dataset", "digits"]
        if rng.random() < 0.8:  # few are carried out: the rest is refused for its folder, at the latest
            words += ["--workdir", "file"]
    return command, words


@pytest.fixture
def place(copy, tmp_path, monkeypatch) -> pathlib.Path:
    """A working directory with a run, a file and an empty home folder."""
    copy().rename(tmp_path / "run")
    (tmp_path / "file").write_text("a file")
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("JAXALEX_DATA_DIR", "TFDS_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    # Nothing is fetched: what would go to the network is refused at once, as on a machine without any.
    monkeypatch.setattr("jaxalex.data.cifar10.URL", "https://127.0.0.1:9/cifar-10-binary.tar.gz")
    return tmp_path


def _complaints(error: str) -> list[str]:
    """Lines on stderr, without notes and download bars."""
    return [line for line in error.splitlines() if line.strip() and not line.startswith("note:") and "%|" not in line]


def _written(place: pathlib.Path) -> set[str]:
    """Names of everything in the working directory and in its home folder."""
    return {path.name for path in place.iterdir()} | {f"home/{path.name}" for path in (place / "home").iterdir()}


@pytest.fixture
def _alarm() -> Iterator[None]:
    """SIGALRM fails the test instead of ending the process."""

    def expire(*_: object) -> None:
        raise AssertionError("a command hangs")

    before = signal.signal(signal.SIGALRM, expire)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.slow
@pytest.mark.usefixtures("_alarm")
def test_command_lines_in_one_process(place, capsys) -> None:
    before, codes = _written(place), []
    allowed = set(before)
    for seed in range(COMMAND_LINES):
        command, words = _command_lines(seed)
        computed = os.times().user
        signal.alarm(600)  # somebody else may have the processor; the real bound is the time it computes
        code = _MAINS[command](words)
        signal.alarm(0)
        assert os.times().user - computed < 120, f"{command} {words} computed too long"
        error = capsys.readouterr().err
        codes.append(code)
        assert code in (0, 1, 2), f"{command} {words}: {code}"
        assert len(_complaints(error)) == (code != 0), f"{command} {words}: {error}"
        assert "Traceback" not in error
        assert "\x1b" not in error
        # A run goes where --workdir says or under runs/, a download where --data-dir says; nothing else is touched.
        for flag in ("--workdir", "--data-dir"):
            for at, word in enumerate(words):
                name, _, value = word.replace("_", "-").partition("=")
                if name == flag:
                    value = word.partition("=")[2] or (words[at + 1] if at + 1 < len(words) else "")
                    allowed.add("downloads" if value in ("", ".") else value.split("/")[0])
        assert _written(place) <= allowed | {"runs", "home/tensorflow_datasets"}, f"{command} {words}"
    assert {0, 2} <= set(codes)
    assert codes.count(0) >= 10
    assert codes.count(2) >= COMMAND_LINES // 2


def test_command_lines_as_processes(place) -> None:
    # No process can be given a NUL, and none may go to the network for CIFAR-10.
    lines = map(_command_lines, range(9000, 9200))
    chosen = [line for line in lines if not {"\0", "cifar10"} & {part for word in line[1] for part in (word, *word)}]
    running = []
    for command, words in chosen[:PROCESSES]:
        full = [sys.executable, "-W", "error", "-m", f"jaxalex.{command}", *words]
        root = str(pathlib.Path(__file__).parents[2])
        environment = os.environ | {"PYTHONPATH": root}
        process = subprocess.run(
            full, capture_output=True, env=environment, timeout=300, check=False, stdin=subprocess.DEVNULL
        )
        running.append((words, process))
    for words, process in running:
        error = process.stderr.decode(errors="replace")
        assert process.returncode in (0, 1, 2), f"{words}: {error}"
        assert len(_complaints(error)) == (process.returncode != 0), f"{words}: {error}"
        assert "Traceback" not in error
