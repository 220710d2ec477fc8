"""Training through the command's door: what it prints, what it leaves, what it refuses."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from torch_ref import data, models, train

TINY = [
    *("--dataset", "digits", "--width", "0.01", "--device", "cpu"),
    *("--limit-train", "50", "--limit-eval", "21"),
]
EPOCH_LINE = (
    r"\[Epoch +\d+\] train_loss: \d+\.\d{3} train_acc: \d+\.\d{3}% "
    r"eval_loss: \d+\.\d{3} eval_acc: \d+\.\d{3}%"
)


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # networks this small only lose time to more
    yield
    torch.set_num_threads(threads)


def summary(workdir: Path) -> dict:
    return json.loads((workdir / "summary.json").read_text())


def rows(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_the_loss_falls_and_everything_is_left(tmp_path, capsys):
    # eight images, whose classes the last bias alone can learn: the default start leaves its plateau late
    sizes = ["--width", "0.05", "--limit-train", "8", "--limit-eval", "50"]
    how = [
        "--batch_size",
        "8",
        "--num-epochs=30",
        "--learning_rate",
        "0.05",
        "--seed",
        "1",
        "--device",
        "cpu",
    ]
    assert train.main(["--dataset", "digits", *sizes, *how, "--workdir", str(tmp_path)]) == 0
    out, err = capsys.readouterr()

    lines = out.splitlines()
    assert all(re.fullmatch(EPOCH_LINE, line) for line in lines[-31:-1])
    header = "\n".join(lines[:-31])
    for word in ("cpu", "torch " + torch.__version__, "digits", "8 train", "50 eval", "50 test"):
        assert word in header
    assert "Epoch 1/30" in err
    assert "img/s" in err

    done = rows(tmp_path)
    assert [row["epoch"] for row in done] == list(range(1, 31))
    assert done[0]["train_loss"] > 2.2
    assert done[-1]["train_loss"] < 1.9
    left = summary(tmp_path)
    assert (left["train_size"], left["eval_size"], left["test_size"]) == (8, 50, 50)
    assert (left["dataset"], left["model"], left["epochs"]) == ("digits", "cifar10", 30)
    assert lines[-1] == f"[Test     ] loss: {left['test_loss']:.3f} acc: {left['test_accuracy']:.3f}%"
    assert left["compile_seconds"] == 0
    assert 0 < sum(row["seconds"] for row in done) < left["wall_seconds"]
    assert left["images_per_second"] > 0
    assert left["versions"]["torch"] == torch.__version__
    assert left["devices"]
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["batch_size"], config["learning_rate"], config["seed"]) == (8, 0.05, 1)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_test_figures_are_those_of_the_weights(tmp_path):
    assert train.main([*TINY, "--num-epochs", "1", "--workdir", str(tmp_path)]) == 0
    left = summary(tmp_path)
    model = models.build("cifar10", width=0.01)
    model.load_state_dict(torch.load(tmp_path / "model.pth", weights_only=True))
    assert left["parameters"] == sum(p.numel() for p in model.parameters())
    test = data.load("digits").test
    images = torch.stack([test[i][0] for i in range(21)])
    labels = torch.tensor([test[i][1] for i in range(21)])
    with torch.no_grad():
        logits = model.eval()(images)
    accuracy = 100 * (logits.argmax(1) == labels).double().mean().item()
    assert accuracy == pytest.approx(left["test_accuracy"])
    assert nn.functional.cross_entropy(logits, labels).item() == pytest.approx(left["test_loss"], rel=1e-5)


def test_a_softmax_in_the_network_holds_the_loss_up(tmp_path):
    # one image: any network can bring its loss to zero
    one = [*TINY, "--limit-train", "1", "--num-epochs", "40", "--learning-rate", "0.1", "--workdir"]
    assert train.main([*one, str(tmp_path / "plain")]) == 0
    assert train.main([*one, str(tmp_path / "softmax"), "--softmax-in-network"]) == 0
    plain, softmax = rows(tmp_path / "plain"), rows(tmp_path / "softmax")
    assert plain[-1]["train_loss"] < 0.5
    assert 1.461 < softmax[-1]["train_loss"] < softmax[0]["train_loss"]


def test_same_seed_same_run_and_flags_reach_the_optimizer(tmp_path):
    def weights(name: str, *flags: str) -> np.ndarray:
        workdir = str(tmp_path / name)
        assert train.main([*TINY, "--num-epochs", "1", "--workdir", workdir, *flags]) == 0
        state = torch.load(tmp_path / name / "model.pth", weights_only=True)
        return np.concatenate([value.numpy().ravel() for value in state.values()])

    first = weights("first")
    assert np.array_equal(first, weights("again"))
    assert summary(tmp_path / "first")["train_size"] == 50
    assert summary(tmp_path / "first")["eval_size"] == summary(tmp_path / "first")["test_size"] == 21
    for flag, value in [
        ("--momentum", "0"),
        ("--weight-decay", "0.1"),
        ("--learning-rate", "0.1"),
        ("--seed", "3"),
    ]:
        assert not np.array_equal(first, weights(flag, flag, value)), flag


@pytest.mark.parametrize("name", ["paper", "original", "torchvision"])
def test_a_network_for_photographs_gets_images_of_its_own_size(name, tmp_path):
    few = ["--limit-train", "6", "--limit-eval", "4", "--num-epochs", "1", "--workdir", str(tmp_path)]
    assert train.main([*TINY, "--model", name, "--batch-size", "3", *few]) == 0
    assert json.loads((tmp_path / "config.json").read_text())["metadata"]["image_size"] == 224


def one_line(capsys) -> str:
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1, err
    assert "Traceback" not in err
    return err


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        *[("--dataset", "mnist"), ("--model", "vgg"), ("--device", "tpu")],
        *[("--batch-size", bad) for bad in ("0", "-1", "1.5", "nan", str(10**30))],
        *[("--num_epochs", bad) for bad in ("0", "-3")],
        *[("--learning-rate", bad) for bad in ("0", "-0.1", "nan", "inf", "1e300", "fast")],
        *[("--momentum", bad) for bad in ("-0.1", "1", "nan")],
        *[("--weight-decay", bad) for bad in ("-1", "nan", "inf", "1e300")],
        *[("--width", bad) for bad in ("0", "-1", "nan", "17", "1e9")],
        *[("--limit-train", "0"), ("--limit-eval", "-1"), ("--seed", "-1"), ("--no-such-flag", "1")],
    ],
)
def test_bad_values_are_refused(flag, value, tmp_path, capsys):
    workdir = tmp_path / "run"
    with pytest.raises(SystemExit) as stop:
        train.main(["--dataset", "digits", "--workdir", str(workdir), flag, value])
    assert stop.value.code == 2
    line = one_line(capsys)
    assert flag.replace("_", "-") in line
    assert value in line
    assert not workdir.exists()


def test_absent_and_damaged_data_are_named(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("JAXALEX_DATA_DIR", raising=False)
    run = ["--dataset", "cifar10", "--workdir", str(tmp_path / "run")]
    assert train.main(run) == 2
    assert "--data-dir" in one_line(capsys)
    assert train.main([*run, "--data-dir", str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in one_line(capsys)
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "data_batch_2").write_bytes(b"cut off")
    monkeypatch.setenv("JAXALEX_DATA_DIR", str(tmp_path))
    assert train.main(run) == 2
    line = one_line(capsys)
    assert all(name in line for name in ("data_batch_1", "data_batch_2", "test_batch", "batches.meta"))
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_an_absent_gpu_is_never_a_silent_cpu(tmp_path, capsys):
    assert train.main([*TINY, "--device", "gpu", "--workdir", str(tmp_path / "run")]) == 2
    assert "GPU" in one_line(capsys)
    assert not (tmp_path / "run").exists()


def test_a_run_is_never_overwritten(tmp_path, capsys):
    (tmp_path / "metrics.jsonl").write_text("precious")
    assert train.main([*TINY, "--workdir", str(tmp_path)]) == 2
    assert "already holds a run" in one_line(capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]
    assert train.main([*TINY, "--workdir", str(tmp_path / "metrics.jsonl")]) == 2
    assert "not a folder" in one_line(capsys)
    assert train.main([*TINY, "--workdir", str(tmp_path / "metrics.jsonl" / "run")]) == 2
    assert "cannot make" in one_line(capsys)
    assert (tmp_path / "metrics.jsonl").read_text() == "precious"


def test_without_a_workdir_every_run_gets_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert train.main([*TINY, "--num-epochs", "1"]) == 0
    assert train.main([*TINY, "--num-epochs", "1"]) == 0
    folders = list((tmp_path / "runs").iterdir())
    assert len(folders) == 2
    assert all((folder / "summary.json").exists() for folder in folders)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, capsys):
    assert train.main([*TINY, "--learning-rate", "1e30", "--workdir", str(tmp_path)]) == 1
    err = capsys.readouterr().err
    assert "in epoch 1, step 2" in err.splitlines()[-1]
    assert "Traceback" not in err
    assert not (tmp_path / "summary.json").exists()


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (signal.SIGTERM, 143),
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, 129, marks=pytest.mark.slow),
    ],
)
def test_a_signal_stops_a_run_with_its_exit_code(tmp_path, number, expected):
    # A process that was started in the background of a script ignores Ctrl-C, and a closed terminal if it was started
    # by nohup, and so would its children.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
    code += "from torch_ref import cli, train; cli.run_as_command(train.main)"
    command = [sys.executable, "-c", code, *TINY, "--num-epochs", "100000", "--workdir", str(tmp_path / "run")]
    environment, pipe = {**os.environ, "OMP_NUM_THREADS": "1"}, subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("[Epoch"):
                process.send_signal(number)
                break
        process.stdout.read()
        assert process.stderr is not None
        assert process.stderr.read().splitlines()[-1].startswith("stopped by ")
        assert process.wait(60) == expected
    assert rows(tmp_path / "run")[0]["epoch"] == 1  # what was done is not lost
    assert torch.load(tmp_path / "run" / "model.pth", weights_only=True)


def test_a_short_run_on_the_real_cifar10(tmp_path, capsys):
    data_dir = os.environ.get("JAXALEX_DATA_DIR")
    if not data_dir:
        pytest.skip("JAXALEX_DATA_DIR is not set: no CIFAR-10 here")
    splits = data.load("cifar10", data_dir)
    assert (len(splits.train), len(splits.eval), len(splits.test)) == (40_000, 10_000, 10_000)
    assert splits.class_names[3] == "cat"
    assert splits.test[0][1] == 3  # the first test image is the well-known cat
    image = splits.test[0][0]
    assert image[:, 0, 0] == pytest.approx([158 / 127.5 - 1, 112 / 127.5 - 1, 49 / 127.5 - 1], abs=1e-6)

    few = ["--limit-train", "96", "--limit-eval", "40", "--num-epochs", "1", "--width", "0.05"]
    assert train.main(["--data-dir", data_dir, *few, "--device", "cpu", "--workdir", str(tmp_path)]) == 0
    assert re.search(EPOCH_LINE, capsys.readouterr().out)
    left = summary(tmp_path)
    assert (left["dataset"], left["train_size"], left["test_size"]) == ("cifar10", 96, 40)
    assert 2 < left["test_loss"] < 2.6


def test_a_relative_data_folder_is_stored_as_an_absolute_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    few = ["--dataset", "digits", "--limit-train", "20", "--limit-eval", "10", "--num-epochs", "1", "--width", "0.05"]
    assert train.main([*few, "--data-dir", "data", "--device", "cpu", "--workdir", "run"]) == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["data_dir"] == str(tmp_path / "data")
    capsys.readouterr()
    monkeypatch.setenv("JAXALEX_DATA_DIR", "~/data")
    assert train.main(["--workdir", "other"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"no CIFAR-10 in {tmp_path / 'home' / 'data'}: it must hold the folder cifar-10-batches-py" in captured.err
    assert captured.err.count("\n") == 1
    assert not (tmp_path / "other").exists()
