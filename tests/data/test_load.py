"""`load`: which data set is chosen, from where, and what is said about it."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from jaxalex import data
from jaxalex.data import cifar10
from jaxalex.errors import UsageError

COMMAND = "python -m jaxalex.train --dataset cifar10"


@pytest.fixture
def damaged(tmp_path):
    """A folder with a CIFAR-10 whose first file is cut short, so that reading it fails."""
    folder = tmp_path / "damaged" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    (folder / "data_batch_1").write_bytes(b"\x80\x02}")
    return folder.parent


def test_auto_without_cifar10_is_digits_and_says_so(tmp_path):
    lines: list[str] = []
    splits = data.load("auto", None, seed=0, notify=lines.append)
    assert splits.name == "digits"
    assert len(lines) == 1
    assert "\n" not in lines[0]
    assert COMMAND in lines[0]
    assert "tensorflow_datasets" in lines[0]  # where it looked


@pytest.mark.parametrize("exists", [True, False])
def test_auto_names_the_given_folder(tmp_path, exists):
    folder = tmp_path / "my data"
    if exists:
        folder.mkdir()
    lines: list[str] = []
    assert data.load("auto", str(folder), seed=0, notify=lines.append).name == "digits"
    assert f"{COMMAND} --data-dir '{folder}'" in lines[0]
    assert ("does not exist" in lines[0]) is not exists
    assert folder.exists() is exists


def test_digits_are_silent(tmp_path):
    lines: list[str] = []
    data.load("digits", str(tmp_path / "absent"), seed=0, notify=lines.append)
    assert lines == []


@pytest.mark.parametrize("dataset", ["auto", "cifar10"])
def test_damaged_cifar10_is_an_error_never_digits(damaged, dataset):
    with pytest.raises(UsageError, match="data_batch_1 is damaged: 3 bytes, expected 31,035,704"):
        data.load(dataset, str(damaged), seed=0)


def test_where_it_looks(damaged, tmp_path, monkeypatch):
    def found() -> bool:
        try:
            return data.load("auto", None, seed=0, notify=lambda line: None).name == "cifar10"
        except UsageError as error:
            return str(damaged) in str(error)

    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    assert not found()
    (home / "tensorflow_datasets").symlink_to(damaged)
    with pytest.raises(UsageError, match=str(home / "tensorflow_datasets")):
        data.load("auto", None, seed=0)
    (home / "tensorflow_datasets").unlink()
    monkeypatch.setenv("TFDS_DATA_DIR", str(damaged))
    assert found()
    monkeypatch.setenv("JAXALEX_DATA_DIR", str(tmp_path))  # comes before TFDS' own
    assert not found()
    monkeypatch.setenv("JAXALEX_DATA_DIR", str(damaged))
    assert found()
    assert data.load("auto", str(tmp_path), seed=0, notify=lambda line: None).name == "digits"  # comes first


def test_cifar10_without_network_fails_and_never_falls_back(tmp_path, monkeypatch):
    monkeypatch.setattr(cifar10, "URL", "http://127.0.0.1:9/cifar-10-binary.tar.gz")
    lines: list[str] = []
    with pytest.raises(UsageError, match="--dataset digits"):
        data.load("cifar10", str(tmp_path / "new"), seed=0, download=True, notify=lines.append)
    assert len(lines) == 1
    assert str(tmp_path / "new") in lines[0]


def test_nothing_is_downloaded_unasked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines: list[str] = []
    with pytest.raises(UsageError) as caught:
        data.load("cifar10", "data", seed=0, notify=lines.append)
    assert lines == []
    assert str(caught.value) == (
        f"no CIFAR-10 in {tmp_path / 'data'}: give --data-dir DIR, or set JAXALEX_DATA_DIR, where DIR holds "
        "cifar-10-batches-py or cifar-10-batches-bin"
    )
    assert not (tmp_path / "data").exists()


def test_what_a_run_stores_of_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert data.stored_dir("data") == str(tmp_path / "data")
    assert data.stored_dir("~/data") == str(tmp_path / "home" / "data")
    assert data.stored_dir("/srv/data") == "/srv/data"
    assert data.stored_dir(None) is None
    monkeypatch.setenv("JAXALEX_DATA_DIR", "data")
    assert data.stored_dir(None) == str(tmp_path / "data")
    assert data.stored_dir("/srv/data") == "/srv/data"
    monkeypatch.setenv("JAXALEX_DATA_DIR", "/srv/data")  # another machine may have another one
    assert data.stored_dir(None) is None
    with pytest.raises(UsageError, match="--data-dir ~nobody-there/data: not a valid folder name"):
        data.stored_dir("~nobody-there/data")


@pytest.mark.parametrize("dataset", ["cifar10", "digits"])
def test_class_names_are_known_without_the_data(dataset):
    assert len(data.class_names(dataset)) == 10
    assert data.class_names("digits") == data.load("digits", None, seed=0).class_names
    with pytest.raises(UsageError, match="unknown dataset 'auto'"):
        data.class_names("auto")


@pytest.mark.parametrize("dataset", ["auto", "cifar10"])
def test_file_instead_of_folder(tmp_path, dataset):
    path = tmp_path / "cifar-10-python.tar.gz"
    path.write_bytes(b"")
    with pytest.raises(UsageError, match="is a file"):
        data.load(dataset, str(path), seed=0)


def test_unknown_dataset_names_the_known_ones():
    with pytest.raises(UsageError, match="'cifar-10': known are auto, cifar10, digits"):
        data.load("cifar-10", None, seed=0)


def test_limits_keep_the_first_of_each_part():
    whole = data.load("digits", None, seed=3)
    some = data.load("digits", None, seed=3, limit_train=100, limit_eval=7)
    for part, size in (("train", 100), ("eval", 7), ("test", 7)):
        kept, everything = getattr(some, part), getattr(whole, part)
        assert len(kept) == size
        np.testing.assert_array_equal(kept.images, everything.images[:size])
        np.testing.assert_array_equal(kept.labels, everything.labels[:size])
    assert len(data.load("digits", None, seed=3, limit_train=10**9).train) == 1149


@pytest.mark.parametrize("limits", [{"limit_train": 0}, {"limit_eval": 0}, {"limit_train": -5}])
def test_limits_below_one_are_refused(limits):
    with pytest.raises(UsageError, match=r"--limit-\w+ .*at least 1"):
        data.load("digits", None, seed=0, **limits)


def test_train_and_eval_are_disjoint_and_whole():
    splits = data.load("digits", None, seed=5)
    rows = np.concatenate([splits.train.images, splits.eval.images, splits.test.images]).reshape(1797, -1)
    assert len(np.unique(rows, axis=0)) == 1797


def test_split_indices_are_the_same_everywhere():
    # RandomState(0).permutation(10), as NumPy has given it since 1.x.
    train, evaluation = data.split_indices(10, seed=0)
    assert train.tolist() == [2, 8, 4, 9, 1, 6, 7, 3]
    assert evaluation.tolist() == [0, 5]


def test_import_is_light():
    heavy = "{'jax', 'torch', 'tensorflow', 'tensorflow_datasets', 'sklearn', 'PIL', 'tqdm'}"
    code = f"import sys, jaxalex.data; print(sorted(sys.modules.keys() & {heavy}))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
