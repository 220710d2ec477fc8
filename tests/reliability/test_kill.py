"""SIGKILL at random moments, in the middle of a checkpoint too: the run ends as if nothing had happened."""

from __future__ import annotations

import pathlib
import random
import signal
import time

import pytest

from jaxalex import train
from reliability.runs import SMALL, assert_same, start, wait_for


def _names(run: pathlib.Path) -> set[str]:
    """Names in the folder of checkpoints."""
    return {path.name for path in (run / "checkpoints").glob("*")}


# How many kills, how many of them must hit the run, and how many a checkpoint that is being written.
@pytest.mark.parametrize(
    ("epochs", "kills", "hits", "halves"), [(3, 2, 1, 0), pytest.param(8, 6, 4, 1, marks=pytest.mark.slow)]
)
def test_killed_at_random_moments(tmp_path, epochs: int, kills: int, hits: int, halves: int) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    # A checkpoint every second step: most of the time goes into writing them.
    flags = [*SMALL, "--checkpoint-every", "2", "--num-epochs", str(epochs)]
    assert train.main([*flags, "--workdir", str(whole)]) == 0
    rng = random.Random(5)
    killed = written_in_part = 0
    for number in range(kills):
        # Killed before it had begun, the run is started once more; afterwards it always goes on.
        begun = (run / "config.json").exists()
        with start(*(["--resume", str(run)] if begun else [*flags, "--workdir", str(run)])) as process:
            if number:  # soon after it has saved something, however fast the machine is
                wait_for(process, "compiled")
                before = _names(run)
                while _names(run) == before and process.poll() is None:
                    time.sleep(0.002)
            # Every other time at once, while it is still writing.
            time.sleep(rng.uniform(0, 4 if number == 0 else 0.3 if number % 2 else 0.01))
            process.send_signal(signal.SIGKILL)
            killed += process.wait() == -signal.SIGKILL
            process.communicate()
        written_in_part += any((run / "checkpoints").glob("*.partial")) if run.exists() else 0
    assert train.main(["--resume", str(run)]) == 0
    assert killed >= hits, "the run must be long enough for most of the kills"
    assert written_in_part >= halves, "some kills must hit a checkpoint that is being written"
    assert_same(run, whole)
