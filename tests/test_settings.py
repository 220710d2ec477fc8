"""JAX's own environment variables: what makes no sense, or cannot be used, is one line and exit code 2."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import jax
import pytest

from jaxalex.system import environment, settings

TRAIN = ["train", "--dataset", "digits", "--width", "0.05", "--limit-train", "40", "--limit-eval", "20"]
TRAIN += ["--num-epochs", "1", "--workdir"]
GPU = any(device.platform == "gpu" for device in jax.devices())


def _run(module: str, *flags: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", module, *flags]
    return subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("JAX_ENABLE_X64", "banana", "JAX refuses an environment variable: invalid truth value 'banana' for"),
        ("JAX_DEFAULT_MATMUL_PRECISION", "banana", "JAX refuses an environment variable: "),
        ("JAX_PLATFORMS", "nonsense", "JAX cannot start (under JAX_PLATFORMS=nonsense): "),
        pytest.param(
            *("JAX_PLATFORMS", "cuda", "JAX cannot start (under JAX_PLATFORMS=cuda): "),
            marks=pytest.mark.skipif(GPU, reason="there is a GPU"),
        ),
        ("JAX_NUM_CPU_DEVICES", "0", "JAX cannot start (under JAX_NUM_CPU_DEVICES=0"),
        ("XLA_FLAGS", "--nonsense", "XLA refuses the environment variable XLA_FLAGS=--nonsense: Unknown flag"),
        ("XLA_FLAGS", "--xla_cpu_use_onednn=banana", "Couldn't interpret value banana for flag xla_cpu_use_onednn"),
        ("XLA_FLAGS", "/no/such/file", 'Could not open file "/no/such/file"'),
        ("JAX_NUMPY_DTYPE_PROMOTION", "strict", "JAX_NUMPY_DTYPE_PROMOTION=strict cannot be used: "),
        ("JAX_TRANSFER_GUARD", "disallow", "JAX_TRANSFER_GUARD=disallow cannot be used: "),
        ("JAX_NO_TRACING", "1", "JAX_NO_TRACING=1 cannot be used: "),
    ],
)
def test_what_makes_no_sense_is_one_line(variable: str, value: str, message: str) -> None:
    result = _run("jaxalex.summary", "--width", "0.05", **{variable: value})
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1), result.stderr
    assert result.stderr.startswith("error: ")
    assert message in result.stderr


@pytest.mark.parametrize("name", ["train", "evaluate", "predict", "parity_tests", "benchmarks.epoch_overhead"])
def test_every_command_says_so(name: str, tmp_path: pathlib.Path) -> None:
    flags = {
        "train": [*TRAIN[1:], str(tmp_path / "run")],
        "evaluate": [str(tmp_path / "x.safetensors")],
        "predict": [str(tmp_path / "x.safetensors"), str(tmp_path / "x.png")],
        "parity_tests": ["--width", "0.05"],
        "benchmarks.epoch_overhead": ["--width", "0.05"],
    }[name]
    module = name if name in ("parity_tests", "benchmarks.epoch_overhead") else f"jaxalex.{name}"
    for variables in ({"JAX_PLATFORMS": "nonsense"}, {"JAX_ENABLE_X64": "banana"}):
        result = _run(module, *flags, **variables)
        assert (result.returncode, result.stderr.count("\n")) == (2, 1), result.stderr
        assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_what_makes_sense_works(tmp_path: pathlib.Path) -> None:
    variables = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_cpu_enable_fast_math=false", "JAX_CHECK_TRACER_LEAKS": "1"}
    result = _run("jaxalex.train", *TRAIN[1:], str(tmp_path / "run"), **variables)
    assert (result.returncode, result.stderr) == (0, "")


def test_the_defaults_are_those_of_jax() -> None:
    program = "import json; from jaxalex.system import settings; print(json.dumps(settings.current()))"
    bare = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_"))}
    shown = subprocess.check_output([sys.executable, "-c", program], env=bare, text=True)
    current = json.loads(shown)
    assert settings.differences(None, current) == ""
    assert current.keys() <= settings.DEFAULTS.keys()
    assert len(current) >= 10


def test_differences_name_what_to_do() -> None:
    then = settings.DEFAULTS | {"jax_default_prng_impl": "rbg", "jax_default_matmul_precision": "high"}
    assert settings.differences(then, settings.DEFAULTS) == (
        "jax_default_matmul_precision 'high' then, None now: set JAX_DEFAULT_MATMUL_PRECISION=high; "
        "jax_default_prng_impl 'rbg' then, 'threefry2x32' now: set JAX_DEFAULT_PRNG_IMPL=rbg"
    )
    assert settings.differences({"jax_gone": 1}, settings.DEFAULTS) == ""
    assert settings.differences([1], settings.DEFAULTS) == "[1] then"


def test_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    assert environment.variables() == {}
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=false")
    assert environment.variables() == {"XLA_FLAGS": "--xla_cpu_enable_fast_math=false"}
