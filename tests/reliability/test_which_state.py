"""Which state of a run is evaluated, and that it says so; outputs that are not finite; many pictures at once."""

from __future__ import annotations

import json
import pathlib
import shutil
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from jaxalex import config, evaluate, predict, train
from jaxalex.errors import RunError
from jaxalex.training import loop
from jaxalex.weights.safetensors import load_weights
from reliability.runs import SMALL, small

Copy = Callable[[], pathlib.Path]


def _goes_on(run: pathlib.Path, num_epochs: int, until: str) -> None:
    """Goes on with a run and ends it when it prints a line that begins so."""

    def say(line: str) -> None:
        if line.startswith(until):
            raise RunError("ended on purpose")

    with pytest.raises(RunError, match="ended on purpose"):
        loop.train_and_evaluate(config.resumed(run, {"num_epochs": num_epochs}), run, say, resume=True)


def _evaluated(capsys, *flags: object) -> tuple[str, str]:
    assert evaluate.main([str(flag) for flag in flags]) == 0
    captured = capsys.readouterr()
    which, result = captured.out.splitlines()
    assert captured.err == ""
    return which, result


def _tested(run: pathlib.Path) -> str:
    """The test line of a run that is let to its end."""
    lines: list[str] = []
    loop.train_and_evaluate(config.read(run), run, lines.append, resume=True)
    return next(line for line in lines if line.startswith("[Test "))


def test_a_run_that_was_let_grow_and_stopped(copy: Copy, capsys) -> None:
    run = copy()
    _goes_on(run, 4, until="[Test ")  # all of its epochs are trained, and saved
    which, result = _evaluated(capsys, run)
    assert which == f"network    {run / 'checkpoints' / '48'}: after epoch 4 of 4, step 48"
    assert predict.main([str(run), str(run / "curves.png"), "--top", "1"]) == 0
    captured = capsys.readouterr()
    assert captured.err == f"note: {run / 'checkpoints' / '48'}: after epoch 4 of 4, step 48\n"
    assert captured.out.startswith(f"{run / 'curves.png'}:\n")
    assert _tested(run) == result
    capsys.readouterr()
    assert _evaluated(capsys, run) == (f"network    {run / 'model.safetensors'}: after epoch 4 of 4, step 48", result)
    assert predict.main([str(run), str(run / "curves.png")]) == 0
    assert capsys.readouterr().err == ""


def test_a_run_stopped_inside_an_epoch(copy: Copy, capsys) -> None:
    run = copy()
    _goes_on(run, 4, until="[Epoch   4]")  # 12 steps an epoch, a checkpoint after the 40th
    which, _ = _evaluated(capsys, run)
    assert which == f"network    {run / 'checkpoints' / '40'}: in epoch 4 of 4, after step 40"


def test_damaged_checkpoints_give_way(copy: Copy, unbroken: pathlib.Path, capsys) -> None:
    run = copy()
    expected = _evaluated(capsys, unbroken)[1]
    _goes_on(run, 4, until="[Epoch   4]")
    (run / "checkpoints" / "40" / "record.json").write_text("{}")
    assert evaluate.main([str(run)]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [
        f"network    {run / 'model.safetensors'}: after epoch 3 of 4, step 36",
        expected,
    ]
    assert captured.err.startswith(f"warning: {run / 'checkpoints' / '40'}: is damaged: record.json")
    assert captured.err.count("\n") == 1
    (run / "model.safetensors").unlink()
    assert evaluate.main([str(run)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"network    {run / 'checkpoints' / '36'}: after epoch 3 of 4, step 36",
        expected,
    ]
    for folder in (run / "checkpoints").iterdir():
        (folder / "record.json").write_text('{"split": {"dataset": "digits"}}')
    assert evaluate.main([str(run)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: no checkpoint can be used: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "summary",
    [
        None,
        *(pytest.param(text, marks=pytest.mark.slow) for text in ("{", "[]", '{"epochs": 3}')),
        '{"epochs": 1000000, "train_size": 90}',
    ],
)
def test_a_summary_that_does_not_tell(copy: Copy, unbroken: pathlib.Path, summary: str | None, capsys) -> None:
    run = copy()
    (run / "summary.json").unlink()
    if summary is not None:
        (run / "summary.json").write_text(summary)
    expected = _evaluated(capsys, unbroken)[1]
    which, result = _evaluated(capsys, run)
    assert which == f"network    {run / 'checkpoints' / '36'}: after epoch 3 of 3, step 36"
    assert result == expected
    shutil.rmtree(run / "checkpoints")
    assert _evaluated(capsys, run) == (f"network    {run / 'model.safetensors'}", expected)


@pytest.mark.parametrize("normalize", [pytest.param("half", marks=pytest.mark.slow), "dataset"])
def test_a_run_that_never_finished(tmp_path, normalize: str, capsys) -> None:
    run = tmp_path / "run"

    def say(line: str) -> None:
        if line.startswith("[Test "):
            raise RunError(line)

    with pytest.raises(RunError) as stop:
        loop.train_and_evaluate(small(num_epochs=1, normalize=normalize), run, say)
    which, result = _evaluated(capsys, run)
    assert which == f"network    {run / 'checkpoints' / '12'}: after epoch 1 of 1, step 12"
    assert str(stop.value).startswith(result)
    assert _evaluated(capsys, run, "--checkpoint", "best") == (which, result)
    shutil.rmtree(run / "checkpoints")
    assert evaluate.main([str(run)]) == 2
    assert capsys.readouterr().err == (
        f"error: {run}: the run is not finished, and nothing of it is saved yet: "
        f"python -m jaxalex.train --resume {run}\n"
    )


def _changed(source: pathlib.Path, target: pathlib.Path, change: Callable, **metadata: str) -> pathlib.Path:
    with safe_open(source, framework="numpy") as file:
        known = file.metadata()
    arrays = load_file(source)
    change(arrays)
    save_file(arrays, target, known | metadata)
    return target


def _set(kind: type, value: float) -> Callable:
    def change(arrays: dict[str, np.ndarray]) -> None:
        arrays["fc3.0.weight"] = arrays["fc3.0.weight"].astype(kind)
        arrays["fc3.0.weight"][...] = value

    return change


@pytest.mark.parametrize("metadata", [{}, {"std": "[2e-38, 2e-38, 2e-38]", "mean": "[1e10, 0, 0]"}])
def test_outputs_that_are_not_finite(unbroken: pathlib.Path, tmp_path, metadata: dict[str, str], capsys) -> None:
    change = (lambda arrays: None) if metadata else _set(np.float32, 3e38)
    path = _changed(unbroken / "model.safetensors", tmp_path / "huge.safetensors", change, **metadata)
    for command in (
        lambda: evaluate.main([str(path), "--limit-eval", "40"]),
        lambda: predict.main([str(path), str(unbroken / "curves.png")]),
    ):
        assert command() == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith(f"error: {path}: the network's outputs are not finite numbers")
        assert captured.err.count("\n") == 1


@pytest.mark.parametrize("value", [1e300, -1e300, 3.5e38])
def test_values_beyond_float32(unbroken: pathlib.Path, tmp_path, value: float, capsys) -> None:
    path = _changed(unbroken / "model.safetensors", tmp_path / "huge.safetensors", _set(np.float64, value))
    assert evaluate.main([str(path)]) == 2
    assert capsys.readouterr().err == f"error: {path}: fc3.0.weight holds values beyond the range of float32\n"


def _retyped(source: pathlib.Path, target: pathlib.Path, kind: str, convert: Callable) -> pathlib.Path:
    """The same weights in numbers of another type, written from the format's description."""
    with safe_open(source, framework="numpy") as file:
        header: dict[str, object] = {"__metadata__": file.metadata()}
    data = b""
    for name, array in load_file(source).items():
        content = convert(array)
        header[name] = {"dtype": kind, "shape": array.shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    target.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return target


def test_bfloat16_weights_are_their_float32(unbroken: pathlib.Path, tmp_path) -> None:
    """A bfloat16 is the upper half of a float32."""
    source = unbroken / "model.safetensors"
    path = _retyped(source, tmp_path / "b.safetensors", "BF16", lambda a: (a.view("<u4") >> 16).astype("<u2").tobytes())
    found, description = load_weights(path)
    assert description == load_weights(source)[1]
    for name, array in load_file(source).items():
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name].view(np.uint32), array.view(np.uint32) & 0xFFFF0000)
    assert evaluate.main([str(path), "--limit-eval", "40"]) == 0


def test_float16_weights(unbroken: pathlib.Path, tmp_path, capsys) -> None:
    source = unbroken / "model.safetensors"
    path = _retyped(source, tmp_path / "h.safetensors", "F16", lambda array: array.astype("<f2").tobytes())
    assert evaluate.main([str(path), "--limit-eval", "40"]) == 0
    assert capsys.readouterr().out.startswith("[Test     ] loss: 2.")


@pytest.mark.parametrize("kind", ["F8_E4M3", "F8_E5M2", "I8", "U8", "BOOL"])
def test_numbers_of_eight_bits(unbroken: pathlib.Path, tmp_path, kind: str, capsys) -> None:
    path = _retyped(unbroken / "model.safetensors", tmp_path / "e.safetensors", kind, lambda a: bytes(a.size))
    assert evaluate.main([str(path)]) == 2
    error = capsys.readouterr().err
    assert f"holds {kind}, not floating-point numbers of 16 bits or more\n" in error
    assert error.startswith(f"error: {path}: ")


@pytest.mark.parametrize(
    ("entry", "value"),
    [("std", "[1e-300, 1, 1]"), ("std", "[1e-40, 1, 1]"), ("std", "[1e39, 1, 1]"), ("mean", "[1, 1e39, 1]")],
)
def test_normalisation_beyond_float32(unbroken: pathlib.Path, tmp_path, entry: str, value: str, capsys) -> None:
    path = tmp_path / "odd.safetensors"
    _changed(unbroken / "model.safetensors", path, lambda arrays: None, **{entry: value})
    assert evaluate.main([str(path)]) == 2
    assert capsys.readouterr().err == f"error: {path}: its metadata has no usable {entry!r}: {value!r}\n"


def test_many_pictures(unbroken: pathlib.Path, tmp_path, capsys, monkeypatch) -> None:
    """More than one batch: in order, each as it is alone, in one compiled program."""
    from jaxalex.training import steps

    names = []
    for number in range(70):
        names.append(str(tmp_path / f"{number:02}.png"))
        Image.new("RGB", (32, 32), (3 * number, 255 - 3 * number, 7)).save(names[-1])
    seen, eval_step = [], steps.eval_step
    monkeypatch.setattr(steps, "eval_step", lambda *args: seen.append(args[1]["image"].shape) or eval_step(*args))
    assert predict.main([str(unbroken), *names, "--top", "1"]) == 0
    assert seen == 3 * [(32, 32, 32, 3)]
    many = capsys.readouterr().out.splitlines()
    assert many[::2] == [f"{name}:" for name in names]
    for number in (0, 31, 32, 69):
        assert predict.main([str(unbroken), names[number], "--top", "1"]) == 0
        assert capsys.readouterr().out.splitlines() == many[2 * number : 2 * number + 2]
    pathlib.Path(names[69]).write_bytes(b"no picture")
    assert predict.main([str(unbroken), *names]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"error: {names[69]}: not a readable picture")
    assert captured.err.count("\n") == 1


def test_data_in_a_relative_folder_are_found_from_elsewhere(tmp_path, monkeypatch, capsys) -> None:
    """And where they are gone, nobody downloads them anew: neither `evaluate` nor a run that goes on."""
    flags = [*SMALL, "--num-epochs", "1", "--data-dir", "here", "--workdir", "run"]
    monkeypatch.chdir(tmp_path)
    assert train.main(flags) == 0
    run = tmp_path / "run"
    assert config.read(run).data_dir == str(tmp_path / "here")
    assert train.main(["--resume", "run", "--data-dir", "there"]) == 0
    assert config.read(run).data_dir == str(tmp_path / "there")
    monkeypatch.chdir("/")
    capsys.readouterr()
    (run / "config.json").write_text(json.dumps(json.loads((run / "config.json").read_text()) | {"dataset": "cifar10"}))
    for command in (
        lambda: train.main(["--resume", str(run)]),
        lambda: evaluate.main([str(run), "--dataset", "cifar10"]),
    ):
        assert command() == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith(f"error: no CIFAR-10 in {tmp_path / 'there'}: give --data-dir DIR")
        assert captured.err.count("\n") == 1
    assert not (tmp_path / "there").exists()
