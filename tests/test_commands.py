"""The commands, from end to end: what they print, leave behind, refuse and return. Tiny networks, real data paths."""

from __future__ import annotations

import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save_file

from jaxalex import config, evaluate, predict, train
from jaxalex.training import report, steps

SMALL = ["--recipe", "quickstart", "--width", "0.05", "--limit-eval", "90"]
EPOCH = (
    r"\[Epoch +{n}\] train_loss: \d+\.\d{{3}} train_acc: \d+\.\d{{3}}% eval_loss: \d+\.\d{{3}} eval_acc: \d+\.\d{{3}}%"
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, str]:
    """A finished run of three epochs, and what it printed."""
    workdir = tmp_path_factory.mktemp("runs") / "small"
    # As a person starts it, in a process of its own.
    command = [
        sys.executable,
        "-W",
        "error",
        "-m",
        "jaxalex.train",
        *SMALL,
        "--num_epochs=3",
        "--workdir",
        str(workdir),
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""  # the bar shows on a terminal only
    return workdir, result.stdout


def test_what_training_prints(run) -> None:
    _, output = run
    lines = output.splitlines()
    epochs = [line for line in lines if line.startswith("[Epoch")]
    assert len(epochs) == 3
    for number, line in enumerate(epochs, start=1):
        assert re.fullmatch(EPOCH.format(n=number), line)
    assert re.fullmatch(r"\[Test     \] loss: \d+\.\d{3} acc: \d+\.\d{3}% top5: \d+\.\d{3}%", lines[-2])
    header = "\n".join(lines[:6])
    for part in ("jax 0.", "flax 0.", "cores", "digits (scikit-learn): 1,149 train, 90 eval, 90 test", "parameters"):
        assert part in header


def test_what_training_leaves(run) -> None:
    workdir, output = run
    summary = json.loads((workdir / "summary.json").read_text())
    assert {
        *("dataset", "model", "epochs", "train_size", "eval_size", "test_size", "test_loss", "test_accuracy"),
        *("images_per_second", "compile_seconds", "wall_seconds", "devices", "versions", "parameters"),
    } <= set(summary)
    assert (summary["dataset"], summary["model"], summary["epochs"]) == ("digits", "cifar10", 3)
    assert (summary["train_size"], summary["eval_size"], summary["test_size"]) == (1149, 90, 90)
    assert f"{summary['parameters']:,} parameters" in output
    figures = (summary[f"test_{name}"] for name in ("loss", "accuracy", "top5_accuracy"))
    assert report.test_line(*figures, crops=1) in output
    assert summary["images_per_second"] > 0
    assert summary["wall_seconds"] > summary["compile_seconds"] > 0
    assert summary["devices"][0].startswith("cpu: ")

    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert rows[-1]["train_loss"] < 0.9 * rows[0]["train_loss"], "it learns"
    for name in ("curves.png", "predictions.png", "confusion.png", "filters.png", "examples.png", "mistakes.png"):
        with Image.open(workdir / name) as picture:
            assert min(picture.size) > (200 if name in ("filters.png", "mistakes.png") else 400)
            assert len(picture.convert("RGB").getcolors(1 << 20)) > 20, "not an empty page"
    saved = config.from_dict(json.loads((workdir / "config.json").read_text()))
    assert saved == config.from_recipe("quickstart", {"width": 0.05, "limit_eval": 90, "num_epochs": 3})
    best = max(rows, key=lambda row: row["eval_accuracy"])["epoch"]
    kept = {int(folder.name) for folder in (workdir / "checkpoints").iterdir()}
    assert kept == {36 * best, 72, 108}  # the best and the last two, by their number of steps


def test_the_weights_file_is_a_plain_state_dict(run) -> None:
    workdir, _ = run
    with safe_open(workdir / "model.safetensors", framework="numpy") as file:
        names, metadata = sorted(file.keys()), file.metadata()
        assert file.get_tensor("conv1.0.weight").shape == (3, 3, 3, 3)
        assert file.get_tensor("fc1.1.weight").shape == (205, 13 * 4 * 4)
    assert names == sorted(
        [f"conv{n}.0.{part}" for n in range(1, 6) for part in ("weight", "bias")]
        + [f"{name}.{part}" for name in ("fc1.1", "fc2.0", "fc3.0") for part in ("weight", "bias")]
    )
    assert metadata["model"] == "cifar10"
    assert json.loads(metadata["class_names"]) == list("0123456789")
    assert json.loads(metadata["mean"]) == [0.5, 0.5, 0.5]


@pytest.mark.parametrize("what", ["run", "weights", "last"])
def test_evaluate_repeats_the_test_line(run, what: str, capsys) -> None:
    workdir, output = run
    # A lone weights file does not know that the run saw 90 test pictures only.
    arguments = {
        "run": [str(workdir)],
        "weights": [str(workdir / "model.safetensors"), "--limit-eval", "90"],
        "last": [str(workdir), "--checkpoint", "last"],
    }[what]
    assert evaluate.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == next(line for line in output.splitlines() if line.startswith("[Test"))
    which = f"network    {workdir / 'model.safetensors'}: after epoch 3 of 3, step 108"
    assert lines[:-1] == ([] if what == "weights" else [which])


def test_evaluate_the_best_checkpoint(run, capsys) -> None:
    assert evaluate.main([str(run[0]), "--checkpoint", "best"]) == 0
    rows = [json.loads(line) for line in (run[0] / "metrics.jsonl").read_text().splitlines()]
    best = max(rows, key=lambda row: row["eval_accuracy"])["epoch"]
    which, result = capsys.readouterr().out.splitlines()
    assert which == f"network    {run[0] / 'checkpoints' / str(36 * best)}: after epoch {best} of 3, step {36 * best}"
    assert result.startswith("[Test     ]")


def test_evaluate_weights_without_a_description(run, tmp_path, capsys) -> None:
    with safe_open(run[0] / "model.safetensors", framework="numpy") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    bare = tmp_path / "bare.safetensors"
    save_file(arrays, bare)
    assert evaluate.main([str(bare)]) == 2
    assert "give --model --dataset --normalize" in capsys.readouterr().err
    flags = ["--model", "cifar10", "--dataset", "digits", "--normalize", "half", "--limit-eval", "90"]
    assert evaluate.main([str(bare), *flags, "--width", "0.05"]) == 0
    assert capsys.readouterr().out.strip() in run[1]
    assert evaluate.main([str(bare), *flags]) == 2  # another width: every shape is named
    error = capsys.readouterr().err
    assert "conv1.0.weight: expected (64, 3, 3, 3), found (3, 3, 3, 3)" in error
    assert "fc3.0.weight: expected (10, 4096), found (10, 205)" in error


def test_predict(run, tmp_path, capsys) -> None:
    """A test picture, saved in several formats: the class that the network gives it comes first."""
    from jaxalex import data
    from jaxalex.training import pretrained

    splits = data.load("digits", None, 0)
    loaded = pretrained.load(run[0])
    _, logits = steps.eval_step(
        loaded.state, {"image": splits.test.images[:1], "label": splits.test.labels[:1]}, np.zeros(1, np.int32)
    )
    expected = str(int(np.argmax(logits)))
    picture = Image.fromarray(splits.test.images[0])
    files = [tmp_path / "as.png", tmp_path / "grey.png", tmp_path / "alpha.png", tmp_path / "wide.png"]
    picture.save(files[0])
    picture.convert("L").save(files[1])
    picture.convert("RGBA").save(files[2])
    wide = Image.new("RGB", (96, 32), "white")
    wide.paste(picture, (32, 0))
    wide.save(files[3])  # the central square is cut out
    chart = tmp_path / "chart.png"
    assert predict.main([str(run[0]), *map(str, files), "--top", "2", "--chart", str(chart)]) == 0
    with Image.open(chart) as drawn:
        assert min(drawn.size) > 700, "two pictures across, two down"
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 * 3
    for first in lines[1::3]:
        assert re.fullmatch(rf" +\d+\.\d\d%  {expected}", first)


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
def test_predict_refuses_what_is_no_picture(run, tmp_path, capsys, content: bytes) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(content)
    assert predict.main([str(run[0]), str(bad)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {bad}: not a readable picture")
    assert error.count("\n") == 1
    assert predict.main([str(run[0]), str(tmp_path / "none.png")]) == 2
    assert "no such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "imagenet"], "unknown --dataset 'imagenet'"),
        (["--model", "vgg"], "invalid choice: 'vgg'"),
        (["--batch-size", "0"], "--batch-size must be from 1"),
        (["--batch_size", "x"], "invalid int value: 'x'"),
        (["--num-epochs", "-1"], "--num-epochs must be from 1"),
        (["--learning-rate", "nan"], "--learning-rate must be from 1.1755e-38 to 3.4028e+38, not nan"),
        (["--learning-rate", "0"], "--learning-rate must be from 1.1755e-38"),
        (["--momentum", "1"], "--momentum must be 0, or from 1.1755e-38 to 0.99999994"),
        (["--device", "gpu"], "--device gpu: JAX finds no GPU here"),
        (["--gpu"], "--device gpu: JAX finds no GPU here"),
        (["--precision", "tf32"], "--precision tf32:"),
        (["--data-dir", "{file}", "--dataset", "cifar10"], "is a file"),
        (["--epochs", "3"], "unrecognized arguments: --epochs 3"),
    ],
)
def test_train_refuses_bad_input_and_writes_nothing(arguments: list[str], message: str, tmp_path, capsys) -> None:
    if "gpu" in " ".join(arguments):
        import jax

        if jax.default_backend() == "gpu":
            pytest.skip("there is a GPU here")
    file = tmp_path / "file"
    file.touch()
    workdir = tmp_path / "run"
    flags = [argument.format(file=file) for argument in arguments]
    dataset = [] if "--dataset" in flags else ["--dataset", "digits"]
    assert train.main([*flags, *dataset, "--workdir", str(workdir)]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("error: ")
    assert not workdir.exists()


def test_a_run_is_never_overwritten(run, capsys) -> None:
    before = (run[0] / "summary.json").read_bytes()
    assert train.main([*SMALL, "--workdir", str(run[0])]) == 2
    assert "already holds a run, which is never overwritten" in capsys.readouterr().err
    assert (run[0] / "summary.json").read_bytes() == before


def test_a_folder_with_other_files_is_refused(tmp_path, capsys) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    assert train.main([*SMALL, "--workdir", str(tmp_path)]) == 2
    assert "is not an empty folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_damaged_weights_are_refused(run, tmp_path, capsys) -> None:
    whole = (run[0] / "model.safetensors").read_bytes()
    for name, content in (("cut", whole[:-100]), ("empty", b""), ("text", b"hello, I am no weights file")):
        bad = tmp_path / f"{name}.safetensors"
        bad.write_bytes(content)
        assert evaluate.main([str(bad)]) == 2
        assert f"{bad}: not a readable .safetensors file" in capsys.readouterr().err
    assert evaluate.main([str(tmp_path)]) == 2
    assert "is no run folder" in capsys.readouterr().err


def test_not_finite_exits_with_one(tmp_path, capsys) -> None:
    assert train.main([*SMALL, "--learning-rate", "1e30", "--workdir", str(tmp_path / "run")]) == 1
    assert re.search(r"error: the loss is (nan|inf) at step \d+ of 36 \(epoch 1 of 8\)", capsys.readouterr().err)


@pytest.mark.slow
def test_the_paper_network_sees_the_images_enlarged(tmp_path, capsys) -> None:
    flags = ["--model", "paper", "--dataset", "digits", "--limit-train", "8", "--limit-eval", "3", "--batch-size", "4"]
    workdir = tmp_path / "run"
    assert train.main([*flags, "--num-epochs", "1", "--width", "0.05", "--workdir", str(workdir)]) == 0
    output = capsys.readouterr().out
    assert "images resized to 224x224" in output
    assert evaluate.main([str(workdir)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] in output


def test_plateau_is_noticed_after_a_hundred_steps() -> None:
    def rows(*losses: float) -> list[report.EpochRow]:
        return [report.EpochRow(n, loss, 10.0, loss, 10.0, 1.0, 1.0) for n, loss in enumerate(losses, start=1)]

    # ln 10 = 2.3026; 36 steps an epoch reach a hundred in the third.
    assert not report.reaches_plateau(rows(2.303, 2.302), 36, 10)
    assert report.reaches_plateau(rows(2.303, 2.302, 2.301), 36, 10)
    assert not report.reaches_plateau(rows(2.303, 2.302, 2.301, 2.3), 36, 10), "it has been said"
    assert not report.reaches_plateau(rows(2.303, 1.9, 2.301), 36, 10)
    assert report.reaches_plateau(rows(2.638, 2.31, 2.305, 2.303), 36, 10), "it fell to that level"
    assert report.reaches_plateau(rows(2.303), 1250, 10)


def test_the_plateau_is_said_once_with_what_helps(tmp_path, capsys) -> None:
    flags = [
        "--dataset",
        "digits",
        "--width",
        "0.05",
        "--limit-train",
        "300",
        "--limit-eval",
        "20",
        "--batch-size",
        "4",
    ]
    assert train.main([*flags, "--num-epochs", "3", "--learning-rate", "1e-6", "--workdir", str(tmp_path / "run")]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note:")]
    assert len(lines) == 1
    assert "ln(10) = 2.303" in lines[0]
    assert "--init flax" in lines[0]
    assert "--init" not in report.plateau_hint(None, 10), "a run from a file of weights has no --init"


def test_auto_says_that_it_is_not_cifar10(tmp_path, capsys) -> None:
    flags = ["--width", "0.05", "--limit-train", "40", "--limit-eval", "20", "--num-epochs", "1"]
    workdir = tmp_path / "run"
    assert train.main([*flags, "--data-dir", str(tmp_path / "none"), "--workdir", str(workdir)]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert "NOT CIFAR-10" in first
    assert "python -m jaxalex.train --dataset cifar10" in first
    assert json.loads((workdir / "summary.json").read_text())["dataset"] == "digits"


@pytest.mark.slow
@pytest.mark.skipif("JAXALEX_DATA_DIR" not in os.environ, reason="needs CIFAR-10 in JAXALEX_DATA_DIR")
def test_the_real_cifar10(tmp_path, capsys) -> None:
    flags = ["--dataset", "cifar10", "--width", "0.1", "--limit-train", "960", "--limit-eval", "250"]
    workdir = tmp_path / "run"
    assert (
        train.main([*flags, "--num-epochs", "2", "--init", "flax", "--normalize", "dataset", "--workdir", str(workdir)])
        == 0
    )
    output = capsys.readouterr().out
    summary = json.loads((workdir / "summary.json").read_text())
    assert (summary["dataset"], summary["train_size"], summary["test_size"]) == ("cifar10", 960, 250)
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert rows[1]["train_loss"] < rows[0]["train_loss"]
    assert evaluate.main([str(workdir)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] in output
