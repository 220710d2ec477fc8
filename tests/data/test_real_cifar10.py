"""The real CIFAR-10: each source gives the same images in the same order; its published figures hold."""

from __future__ import annotations

import hashlib
import io
import tarfile

import numpy as np
import pytest

from jaxalex import data
from jaxalex.data import cifar10
from jaxalex.data.cifar10 import tfds_reader
from jaxalex.data.cifar10.files import BINARY
from jaxalex.data.stats import channel_statistics


@pytest.fixture(scope="module")
def official(real_data):
    return cifar10.find(real_data)()


@pytest.fixture(scope="module")
def binary_archive(official, tmp_path_factory):
    """The binary form, packed here record by record from the Python form."""
    directory = tmp_path_factory.mktemp("binary")
    parts = [(official.train, i) for i in range(5)] + [(official.test, 0)]
    names = [f"data_batch_{i + 1}.bin" for i in range(5)] + ["test_batch.bin"]
    with tarfile.open(directory / "cifar-10-binary.tar.gz", "w:gz", compresslevel=1) as tar:
        for name, (part, i) in zip(names, parts, strict=True):
            rows = slice(10_000 * i, 10_000 * (i + 1))
            pixels = part.images[rows].transpose(0, 3, 1, 2).reshape(10_000, 3072)
            content = np.hstack([part.labels[rows, None].astype(np.uint8), pixels]).tobytes()
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return directory


def assert_same(first, second):
    assert first.class_names == second.class_names
    for part in ("train", "test"):
        np.testing.assert_array_equal(getattr(first, part).images, getattr(second, part).images)
        np.testing.assert_array_equal(getattr(first, part).labels, getattr(second, part).labels)


def test_what_is_known_about_it(official):
    assert official.train.images.shape == (50_000, 32, 32, 3)
    assert official.test.images.shape == (10_000, 32, 32, 3)
    assert (official.train.images.dtype, official.train.labels.dtype) == (np.uint8, np.int32)
    # The first are a frog, two trucks, a deer and a car; a cat, two ships and a plane to test.
    named = [[official.class_names[i] for i in part.labels[:5]] for part in (official.train, official.test)]
    assert named[0] == ["frog", "truck", "truck", "deer", "automobile"]
    assert named[1][:4] == ["cat", "ship", "ship", "airplane"]
    assert np.bincount(official.train.labels).tolist() == [5000] * 10
    assert np.bincount(official.test.labels).tolist() == [1000] * 10


def test_channel_statistics(official):
    mean, std = channel_statistics(official.train.images)
    np.testing.assert_allclose(mean, [0.49140, 0.48216, 0.44653], rtol=0, atol=5e-6)
    np.testing.assert_allclose(std, [0.24703, 0.24349, 0.26159], rtol=0, atol=5e-6)


def test_split(real_data):
    splits = data.load("auto", str(real_data / "cifar-10-batches-py"), seed=0)
    assert (len(splits.train), len(splits.eval), len(splits.test)) == (40_000, 10_000, 10_000)
    assert (splits.name, splits.source) == ("cifar10", "cifar-10-batches-py")


def test_binary_form_equals_the_python_form(official, binary_archive):
    # The archive passes only if the records packed above have the published MD5s of the binary files.
    assert_same(cifar10.find(binary_archive)(), official)


@pytest.mark.slow
def test_tfds_form_equals_the_published_files(official, binary_archive, tmp_path):
    import tensorflow_datasets as tfds

    tfds_reader.prepare(tmp_path, cifar10.read_archive(binary_archive / "cifar-10-binary.tar.gz", BINARY))
    found = cifar10.find(tmp_path)()
    assert found.source == "cifar10/3.0.2"
    assert_same(found, official)

    # And once more by nothing of ours.
    parts = tfds.data_source("cifar10", data_dir=tmp_path, download=False)
    for split, part in (("train", official.train), ("test", official.test)):
        assert len(parts[split]) == len(part)
        wrong, seen = 0, set()
        for record in parts[split]:
            index = int(record["id"].decode().removeprefix(split + "_"))
            seen.add(index)
            wrong += record["label"] != part.labels[index]
            wrong += hashlib.md5(record["image"]).digest() != hashlib.md5(part.images[index]).digest()
        assert wrong == 0
        assert len(seen) == len(part)
