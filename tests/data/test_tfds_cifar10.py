"""tensorflow-datasets' layout, written and read for real without TensorFlow and without a network."""

from __future__ import annotations

import dataclasses
import hashlib
import socket
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from jaxalex.data import cifar10
from jaxalex.data.cifar10 import tfds_reader
from jaxalex.data.cifar10.files import File
from jaxalex.errors import RunError, UsageError


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("it went to the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def prepared(tmp_path, small):
    """A data directory with nothing but what TFDS prepared."""
    archive = small.write_archive(tmp_path / "elsewhere" / "x.tar.gz", small.binary)
    directory = tmp_path / "data"
    tfds_reader.prepare(directory, cifar10.read_archive(archive, small.binary))
    return directory


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("form", ["python", "binary"])
def test_prepared_from_an_archive_and_read_by_stock_tfds(tmp_path, small, form, capfd):
    import tensorflow_datasets as tfds

    form = getattr(small, form)
    begin = time.monotonic()
    archive = small.write_archive(tmp_path / "x.tar.gz", form)
    tfds_reader.prepare(tmp_path, cifar10.read_archive(archive, form))
    assert time.monotonic() - begin < 60
    assert capfd.readouterr().out == ""

    parts = tfds.data_source("cifar10", data_dir=tmp_path, download=False)
    assert (len(parts["train"]), len(parts["test"])) == (120, 40)
    for split, first in (("train", 0), ("test", 120)):
        seen = set()
        for record in parts[split]:
            index = int(record["id"].decode().removeprefix(split + "_"))
            np.testing.assert_array_equal(record["image"], small.images[first + index])
            assert record["label"] == small.labels[first + index]
            seen.add(index)
        assert seen == set(range(len(parts[split])))
    assert parts["train"].dataset_info.features["label"].names[0] == "airplane"


@pytest.mark.usefixtures("no_network")
def test_found_and_read_back_in_published_order(prepared, small, capfd):
    published = cifar10.find(prepared, small.forms)()
    small.check(published)
    assert published.source == "cifar10/3.0.2"
    assert capfd.readouterr() == ("", "")


def test_other_content_is_refused(prepared, small):
    altered = dict(small.binary.batches) | {"data_batch_2.bin": File(60 * 3073, "0" * 32)}
    with pytest.raises(UsageError, match=r"the content of data_batch_2\.bin has MD5"):
        tfds_reader.read(prepared, dataclasses.replace(small.binary, batches=altered))


def damage(path, how):
    whole = path.read_bytes()
    middle = len(whole) // 2
    if how == "absent":
        path.unlink()
    elif how == "altered":
        flipped = bytes(byte ^ 0x55 for byte in whole[middle : middle + 9])
        path.write_bytes(whole[:middle] + flipped + whole[middle + 9 :])
    else:
        path.write_bytes(whole[: 0 if how == "empty" else middle])


@pytest.mark.parametrize(
    "name",
    [
        "dataset_info.json",
        "cifar10-train.array_record-00000-of-00001",
        "cifar10-test.array_record-00000-of-00001",
    ],
)
@pytest.mark.parametrize("how", ["absent", "empty", "cut", "altered"])
def test_damage_is_an_error_that_names_the_folder(prepared, small, name, how):
    damage(prepared / "cifar10" / "3.0.2" / name, how)
    with pytest.raises(UsageError) as caught:
        cifar10.find(prepared, small.forms)()
    assert str(prepared / "cifar10" / "3.0.2") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_format_that_needs_tensorflow_is_told(prepared, small):
    path = prepared / "cifar10" / "3.0.2" / "dataset_info.json"
    path.write_text(path.read_text().replace('"array_record"', '"tfrecord"'))
    with pytest.raises(UsageError, match=r"cifar10/3\.0\.2 cannot be read .*TFRECORD is not supported"):
        cifar10.find(prepared, small.forms)()


@pytest.mark.parametrize("name", ["features.json", "label.labels.txt"])
@pytest.mark.parametrize("how", ["absent", "empty", "cut", "altered"])
def test_damage_to_what_is_not_needed_changes_no_data(prepared, small, name, how):
    damage(prepared / "cifar10" / "3.0.2" / name, how)
    try:
        published = cifar10.find(prepared, small.forms)()
    except UsageError as error:
        assert str(prepared / "cifar10" / "3.0.2") in str(error)  # noqa: PT017 (either is right)
    else:
        small.check(published)


def test_no_module_is_imported_that_the_folder_names(prepared, small, tmp_path, monkeypatch):
    """TFDS would import the module of a class that the file names, and so run it."""
    (tmp_path / "planted_module.py").write_text("raise SystemExit('it ran')")
    monkeypatch.syspath_prepend(tmp_path)
    path = prepared / "cifar10" / "3.0.2" / "features.json"
    assert '"pythonClassName": "tensorflow_datasets.core.features.' in path.read_text()
    path.write_text(path.read_text().replace("tensorflow_datasets.core.features.image_feature", "planted_module"))
    with pytest.raises(UsageError, match=r"features\.json names the class 'planted_module\.Image'"):
        cifar10.find(prepared, small.forms)()


def test_half_a_preparation_is_not_taken_for_a_whole_one(tmp_path, small):
    archive = small.write_archive(tmp_path / "x.tar.gz", small.binary)
    whole = cifar10.read_archive(archive, small.binary)
    # It breaks when the training part is written and most of the test part is done.
    test = dataclasses.replace(whole.test, labels=whole.test.labels[:-1])
    with pytest.raises(ValueError, match="shorter"):
        tfds_reader.prepare(tmp_path / "data", dataclasses.replace(whole, test=test))
    assert not list((tmp_path / "data").rglob("*.array_record*"))
    assert cifar10.find(tmp_path / "data", small.forms) is None
    # A process that was killed leaves TFDS' own unfinished folder behind.
    (tmp_path / "data" / "cifar10" / "incomplete.AB12CD_3.0.2").mkdir(parents=True)
    assert cifar10.find(tmp_path / "data", small.forms) is None
    tfds_reader.prepare(tmp_path / "data", whole)
    small.check(cifar10.find(tmp_path / "data", small.forms)())


def test_directory_that_cannot_be_written(tmp_path, small):
    archive = small.write_archive(tmp_path / "x.tar.gz", small.binary)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "cifar10").write_text("a file in the way")
    with pytest.raises(RunError, match="failed to prepare"):
        tfds_reader.prepare(tmp_path / "data", cifar10.read_archive(archive, small.binary))


@pytest.fixture
def archive(tmp_path, small):
    return small.write_archive(tmp_path / "site" / "cifar-10-binary.tar.gz", small.binary)


def test_full_disk(archive, tmp_path, small, full_disk):
    data = cifar10.read_archive(archive, small.binary)
    with full_disk(), pytest.raises(RunError, match=r"failed to prepare .*File too large") as caught:
        tfds_reader.prepare(tmp_path / "data", data)
    assert "\n" not in str(caught.value)
    assert not [path for path in (tmp_path / "data").rglob("*") if path.is_file()]


class _Files(SimpleHTTPRequestHandler):
    def log_message(self, format, *args):
        pass


def test_downloaded_prepared_and_read(archive, tmp_path, small):
    published = File(archive.stat().st_size, hashlib.md5(archive.read_bytes()).hexdigest())
    form = dataclasses.replace(small.binary, archive=published)
    directory = tmp_path / "new" / "data"
    handler = partial(_Files, directory=str(archive.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/cifar-10-binary.tar.gz"
        small.check(cifar10.fetch(directory, url=url, form=form))
        server.shutdown()
        thread.join()
    assert (directory / "downloads" / "cifar-10-binary.tar.gz").is_file()
    # The next run finds it prepared, and needs no server.
    small.check(cifar10.find(directory, small.forms)())


def test_where_tfds_cannot_write_the_archive_serves(archive, tmp_path, small, monkeypatch):
    def no_array_record(*args):
        raise ImportError("No module named 'array_record'")

    monkeypatch.setattr(tfds_reader, "prepare", no_array_record)
    published = File(archive.stat().st_size, hashlib.md5(archive.read_bytes()).hexdigest())
    form = dataclasses.replace(small.binary, archive=published)
    downloads = tmp_path / "data" / "downloads"
    downloads.mkdir(parents=True)
    archive.rename(downloads / archive.name)  # as if just downloaded
    with pytest.raises(UsageError, match=f"move {downloads / archive.name} into {tmp_path / 'data'},"):
        cifar10.fetch(tmp_path / "data", url="http://127.0.0.1:9/", form=form)
    (downloads / archive.name).rename(tmp_path / "data" / archive.name)
    small.check(cifar10.find(tmp_path / "data", small.forms)())


def test_no_network_says_what_to_do(tmp_path):
    begin = time.monotonic()
    with pytest.raises(UsageError) as caught:
        cifar10.fetch(tmp_path, url="http://127.0.0.1:9/cifar-10-binary.tar.gz")
    assert time.monotonic() - begin < 5
    message = str(caught.value)
    for advice in ("cifar-10-python.tar.gz", "cifar-10-binary.tar.gz", "--data-dir", "--dataset digits"):
        assert advice in message
    assert "\n" not in message
