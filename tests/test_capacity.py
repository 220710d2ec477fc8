"""A network that does not fit into memory is refused in one line, before anything of it is allocated."""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import pytest

from jaxalex import evaluate, models, train
from jaxalex.data import ImageSet, Splits
from jaxalex.errors import RunError
from jaxalex.system import memory
from jaxalex.training import capacity, optim
from jaxalex.training.state import TrainState, create_train_state

pytestmark = pytest.mark.usefixtures("small_pictures")

_IMAGES = ImageSet(np.zeros((1000, 32, 32, 3), np.uint8), np.zeros(1000, np.int32))
_DATA = Splits("digits", "nowhere", _IMAGES, _IMAGES, _IMAGES, ("a", "b"))
_DATA_BYTES = 3 * 1000 * (32 * 32 * 3 + 4)


def _create(width: float) -> TrainState:
    half = np.full(3, 0.5)
    return create_train_state(
        models.build("cifar10", width=width), optim.sgd(0.1, 0.9), jax.random.key(0), (32, 32, 3), half, half
    )


def test_what_is_counted() -> None:
    """Parameters, momentum and gradient, 4 bytes each; the step; mean and deviation; the data."""
    needed = 3 * 4 * 36_113_290 + 4 + 2 * 3 * 4 + _DATA_BYTES
    capacity.check(_create, 1.0, _DATA, needed)
    capacity.check(_create, 1.0, _DATA, None)
    with pytest.raises(RunError, match=r"^out of memory: --width 1 needs 0\.4 GB for the parameters, .* are free; "):
        capacity.check(_create, 1.0, _DATA, needed - 1)


@pytest.mark.parametrize("free", [20_000_000_000, 1_000_000_000, 20_000_000])
def test_the_width_that_is_named_fits(free: int) -> None:
    with pytest.raises(RunError, match=r"--width 16 needs 110\.8 GB") as caught:
        capacity.check(_create, 16.0, _DATA, free)
    match = re.search(r" are free; --width ([\d.]+) needs ([\d.]+) GB$", str(caught.value))
    assert match
    capacity.check(_create, float(match[1]), _DATA, free)
    with pytest.raises(RunError):
        capacity.check(_create, 2 * float(match[1]), _DATA, free)


def test_no_width_fits() -> None:
    with pytest.raises(RunError, match="try a machine with more memory"):
        capacity.check(_create, 1.0, _DATA, _DATA_BYTES)


def test_a_training_that_is_far_too_large(tmp_path, capsys) -> None:
    free = memory.free_host_bytes()
    if free is None or free > 150e9:
        pytest.skip("it would fit here, or the system does not tell")
    flags = ["--dataset", "digits", "--model", "paper", "--width", "16", "--device", "cpu"]
    assert train.main([*flags, "--workdir", str(tmp_path / "run")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: out of memory: --width 16 needs ")
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_weights_that_do_not_fit_on_the_device(tmp_path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    from reliability.runs import SMALL

    assert train.main([*SMALL, "--num-epochs", "1", "--workdir", str(tmp_path / "run")]) == 0
    monkeypatch.setattr(memory, "free_bytes", lambda device: 1000)  # as a GPU's memory that others use
    assert evaluate.main([str(tmp_path / "run")]) == 1
    error = capsys.readouterr().err
    assert re.search(r"^error: out of memory: .*model\.safetensors takes [\d.]+ GB, 0\.0 GB are free\n$", error)


def test_a_summary_allocates_nothing_of_the_network() -> None:
    """At this width it has 37 GB of parameters."""
    status = pathlib.Path("/proc/self/status")
    if not status.exists():
        pytest.skip("this system does not tell a process's largest size")
    code = f"from jaxalex import summary; assert summary.main(['--width', '16']) == 0; print(open('{status}').read())"
    output = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert "9,232,496,650" in output
    largest = re.search(r"^VmHWM:\s+(\d+) kB$", output, re.MULTILINE)
    assert largest is not None
    assert int(largest[1]) < 1_000_000
