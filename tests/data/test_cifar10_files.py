"""CIFAR-10's published files: every form gives the same images; damage is named."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import tarfile

import pytest

from jaxalex.data import cifar10
from jaxalex.data.cifar10.files import File
from jaxalex.errors import UsageError


def read(directory, small):
    return cifar10.find(directory, small.forms)()


def test_nothing_is_found_where_nothing_is(tmp_path):
    assert cifar10.find(tmp_path) is None
    assert cifar10.find(tmp_path / "absent") is None


def test_every_form_gives_the_same_images_and_the_first_in_the_order_is_read(tmp_path, small):
    # From the last in the order of preference to the first: each newcomer takes over.
    found = []
    for form in (small.binary, small.python):
        small.write_archive(tmp_path / form.archive_name, form)
        found.append(read(tmp_path, small))
    for form in (small.binary, small.python):
        small.write_folder(tmp_path / form.folder, form)
        found.append(read(tmp_path, small))
    for published in found:
        small.check(published)
    assert [published.source for published in found] == [
        "cifar-10-binary.tar.gz",
        "cifar-10-python.tar.gz",
        "cifar-10-batches-bin",
        "cifar-10-batches-py",
    ]


@pytest.mark.parametrize("which", [0, 1])
def test_the_extracted_folder_itself_is_taken_too(tmp_path, small, which):
    small.check(read(small.write_folder(tmp_path / "any name", small.forms[which]), small))


@pytest.mark.parametrize("name", ["data_batch_2", "test_batch", "batches.meta"])
def test_damaged_file_is_named(tmp_path, small, name):
    path = small.write_folder(tmp_path / "cifar-10-batches-py", small.python) / name
    whole = small.content[name]

    path.write_bytes(whole[:-1])
    with pytest.raises(UsageError, match=rf"{name} is damaged: {len(whole) - 1:,} bytes, expected {len(whole):,}"):
        read(tmp_path, small)

    altered = bytearray(whole)
    altered[-5] ^= 1
    path.write_bytes(altered)
    with pytest.raises(UsageError, match=rf"{name} is damaged: MD5 \w+, expected {small.python.files[name].md5}"):
        read(tmp_path, small)

    path.unlink()
    with pytest.raises(UsageError, match=f"{name} is missing"):
        read(tmp_path, small)

    path.mkdir()
    with pytest.raises(UsageError, match=name):
        read(tmp_path, small)


def test_errors_are_one_line(tmp_path, small):
    (small.write_folder(tmp_path / "cifar-10-batches-py", small.python) / "data_batch_1").write_bytes(b"")
    with pytest.raises(UsageError) as caught:
        read(tmp_path, small)
    assert "\n" not in str(caught.value)
    assert "cifar-10-python.tar.gz" in str(caught.value)  # what to do about it


def test_damaged_binary_file_is_named(tmp_path, small):
    path = small.write_folder(tmp_path / "cifar-10-batches-bin", small.binary) / "data_batch_1.bin"
    path.write_bytes(path.read_bytes()[::-1])
    with pytest.raises(UsageError, match=r"data_batch_1\.bin is damaged: MD5"):
        read(tmp_path, small)


def test_members_may_be_named_from_the_current_folder(tmp_path, small):
    small.write_archive(tmp_path / "cifar-10-python.tar.gz", small.python, rename=lambda name: "./" + name)
    small.check(read(tmp_path, small))


def test_truncated_archive(tmp_path, small):
    path = small.write_archive(tmp_path / "cifar-10-binary.tar.gz", small.binary)
    whole = path.read_bytes()
    for length in (0, 5, 1000, len(whole) // 2, len(whole) - 9):
        path.write_bytes(whole[:length])
        with pytest.raises(UsageError, match=r"cifar-10-binary\.tar\.gz"):
            read(tmp_path, small)


def test_what_is_no_archive(tmp_path, small):
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"<html>not here</html>")
    with pytest.raises(UsageError, match=r"cifar-10-python\.tar\.gz is damaged"):
        read(tmp_path, small)


def test_member_that_is_missing_resized_or_altered_is_named(tmp_path, small):
    archive = tmp_path / "cifar-10-binary.tar.gz"
    for change, message in (
        (lambda name, data: None if "test" in name else data, r"does not hold .*/test_batch\.bin"),
        (lambda name, data: data[:-1] if "_2" in name else data, r"data_batch_2\.bin .* is damaged: .*bytes"),
        (lambda name, data: data[::-1] if "_2" in name else data, r"data_batch_2\.bin is damaged: MD5"),
    ):
        with tarfile.open(archive, "w:gz") as tar:
            for name in small.binary.files:
                data = change(name, small.content[name])
                if data is not None:
                    member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
        with pytest.raises(UsageError, match=message):
            read(tmp_path, small)


def test_links_in_an_archive_are_not_followed(tmp_path, small):
    secret = tmp_path / "secret"
    secret.write_bytes(small.content["data_batch_1.bin"])
    with tarfile.open(tmp_path / "cifar-10-binary.tar.gz", "w:gz") as tar:
        for name in small.binary.files:
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.type, member.linkname = tarfile.SYMTYPE, str(secret)
            tar.addfile(member)
    with pytest.raises(UsageError, match=r"data_batch_1\.bin', which is neither a file nor a folder"):
        read(tmp_path, small)


def test_archive_that_never_ends_is_refused(tmp_path, small):
    with gzip.open(tmp_path / "cifar-10-binary.tar.gz", "wb", compresslevel=1) as stream:
        member = tarfile.TarInfo("filler")
        member.size = 40 * 2**20
        stream.write(member.tobuf() + bytes(member.size))
    with pytest.raises(UsageError, match="far more than the published archive"):
        read(tmp_path, small)


def test_nothing_is_extracted(tmp_path, small):
    small.write_archive(tmp_path / "cifar-10-python.tar.gz", small.python)
    read(tmp_path, small)
    assert [path.name for path in tmp_path.iterdir()] == ["cifar-10-python.tar.gz"]


def test_malicious_batch_with_a_fitting_md5_does_not_run(tmp_path, small):
    data = b"\x80\x02cos\nmkdir\nU\x07planted\x85R."
    md5 = hashlib.md5(data).hexdigest()
    form = dataclasses.replace(small.python, batches=dict(small.python.batches) | {"test_batch": File(len(data), md5)})
    (small.write_folder(tmp_path / form.folder, form) / "test_batch").write_bytes(data)
    with pytest.raises(UsageError, match=r"test_batch cannot be decoded: .*os\.mkdir"):
        cifar10.find(tmp_path, [form])()
