"""The unpickler builds images, labels and names, and nothing else."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest

from jaxalex.data.cifar10 import unpickler
from jaxalex.errors import UsageError


class _Attack:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def test_batch_is_read(small):
    images, labels = unpickler.load_batch(small.content["data_batch_1"])
    np.testing.assert_array_equal(images, small.images[:60])
    np.testing.assert_array_equal(labels, small.labels[:60])
    assert (images.dtype, labels.dtype) == (np.uint8, np.int32)


@pytest.mark.parametrize("protocol", [0, 1, 2, 4, 5])
def test_code_in_a_pickle_does_not_run(tmp_path, protocol):
    planted = tmp_path / "planted"
    data = pickle.dumps({"labels": _Attack(os.mkdir, str(planted))}, protocol=protocol)
    for load in (unpickler.load_batch, unpickler.load_class_names):
        with pytest.raises(UsageError, match="mkdir"):
            load(data)
    assert not planted.exists()


@pytest.mark.parametrize(
    "name",
    [
        b"cbuiltins\neval\n",
        b"c__builtin__\neval\n",
        b"cnumpy\nload\n",
        b"cnumpy\nfromfile\n",
        b"cnumpy.core.multiarray\nfromfile\n",
        b"cnumpy\nndarray.tofile\n",
        b"c_codecs\nencode\n",
        b"cjaxalex.data.cifar10.unpickler\n_Array\n",
    ],
)
def test_other_names_are_refused(name):
    with pytest.raises(UsageError, match="refused to unpickle"):
        unpickler.load_batch(b"\x80\x02" + name + b".")


def test_known_names_are_inert():
    # State pushed into the known classes themselves, and arrays of objects instead of bytes.
    build_on_class = b"\x80\x02cnumpy\nndarray\n}U\x05valueK\x07sb."
    objects = b"\x80\x02cnumpy\ndtype\nU\x02O8K\x00K\x01\x87R."
    for data in (build_on_class, objects):
        with pytest.raises(UsageError, match="refused to unpickle"):
            unpickler.load_batch(data)


@pytest.mark.parametrize(
    "data",
    [b"", b"no pickle at all", b"\x80\x02K\x01.", b"\x80\x02}.", b"\x80\x02}(U\x04dataK\x01U\x06labels]u."],
)
def test_what_holds_no_batch_is_refused(data):
    with pytest.raises(UsageError):
        unpickler.load_batch(data)
    with pytest.raises(UsageError):
        unpickler.load_class_names(data)


def test_images_and_labels_must_go_together(small):
    data = small.content["data_batch_1"].replace(b"](K", b"](K\x01K", 1)
    with pytest.raises(UsageError, match="60 images but labels of shape"):
        unpickler.load_batch(data)
