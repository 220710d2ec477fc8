"""``folder:PATH``: photographs in ImageNet's layout, from the files to a trained, tested and resumed network."""

from __future__ import annotations

import json
import pathlib
import re
import shutil
import struct
import zlib

import jax
import numpy as np
import pytest
from PIL import Image

from jaxalex import config, data, evaluate, predict, train
from jaxalex.data.pictures import read_picture
from jaxalex.errors import UsageError
from jaxalex.system import memory
from jaxalex.training import pretrained, steps
from jaxalex.training.progress import describe_split

pytestmark = pytest.mark.usefixtures("small_pictures")

CLASSES = {"n01": (200, 0, 0), "n02": (0, 200, 0), "n03": (0, 0, 200)}
GREY = (90, 90, 90)


def _tile(colour: tuple[int, int, int], width: int = 60, height: int = 40) -> Image.Image:
    """The central square is of one colour; what stands out of it is grey."""
    image = Image.new("RGB", (width, height), GREY)
    side = min(width, height)
    image.paste(colour, ((width - side) // 2, (height - side) // 2, (width + side) // 2, (height + side) // 2))
    return image


@pytest.fixture
def folder(tmp_path) -> pathlib.Path:
    """Of each of three classes ten pictures in train and four in val."""
    path = tmp_path / "photos"
    for part, size in (("train", 10), ("val", 4)):
        for name, colour in CLASSES.items():
            (path / part / name).mkdir(parents=True)
            for i in range(size):
                _tile(colour, *((60, 40), (40, 60))[i % 2]).save(path / part / name / f"{i}.jpg", quality=95)
    return path


def _load(folder: pathlib.Path, **more: object) -> data.Splits:
    return data.load(f"folder:{folder}", None, **{"seed": 0, "image_size": 16, **more})


def _check(part: data.ImageSet, size: int) -> None:
    """That many pictures, each all of its label's colour."""
    assert part.images.shape == (size, 16, 16, 3)
    wanted = np.broadcast_to(np.array(list(CLASSES.values()))[part.labels, None, None], part.images.shape)
    np.testing.assert_allclose(part.images[:, 1:-1, 1:-1], wanted[:, 1:-1, 1:-1], atol=12)


def test_without_a_test_folder_val_is_test_and_eval_is_held_out(folder) -> None:
    splits = _load(folder)
    assert (splits.name, splits.source) == (f"folder:{folder}", "a fifth of train is eval, val is test")
    assert splits.class_names == ("n01", "n02", "n03")
    for part, size in ((splits.train, 24), (splits.eval, 6), (splits.test, 12)):
        _check(part, size)
    assert np.bincount(np.concatenate([splits.train.labels, splits.eval.labels])).tolist() == [10, 10, 10]
    other = _load(folder, seed=1, limit_train=9, limit_eval=5)
    np.testing.assert_array_equal(other.test.labels, splits.test.labels[:5])  # whatever the seed
    assert len(set(other.test.labels)) == 3  # the files are sorted by class, the test set is not
    assert other.train.labels.tolist() == _load(folder, seed=1).train.labels[:9].tolist()
    assert other.train.labels.tolist() != splits.train.labels[:9].tolist()
    only = _load(folder, only_test=True)
    assert (len(only.train), len(only.eval)) == (0, 0)
    np.testing.assert_array_equal(only.test.images, splits.test.images)


def test_with_a_test_folder_val_is_eval(folder) -> None:
    shutil.copytree(folder / "val", folder / "test")
    shutil.rmtree(folder / "test" / "n02")
    (folder / "test" / "n02").mkdir()
    splits = _load(folder)
    assert splits.source == "val is eval"
    for part, size in ((splits.train, 30), (splits.eval, 12), (splits.test, 8)):
        _check(part, size)


def test_every_kind_of_file(tmp_path) -> None:
    red = _tile((200, 0, 0))
    for part in ("train", "val"):
        for name in CLASSES:
            (tmp_path / part / name).mkdir(parents=True)
            (tmp_path / part / name / "notes.txt").write_text("no picture")
            (tmp_path / part / name / ".hidden.jpg").write_text("no picture")
            _tile(CLASSES[name]).save(tmp_path / part / name / "0.PNG")
        (tmp_path / part / ".cache").mkdir()
    first = tmp_path / "val" / "n01"
    for kind in ("bmp", "webp", "ppm", "tif", "TIFF", "JPEG", "Jpg"):
        red.save(first / f"1.{kind}", quality=95)
    red.convert("CMYK").save(first / "2.jpg", quality=95)
    red.quantize(4).save(first / "3.png")
    red.save(first / "4.jpg", "PNG")  # the content counts, not the name
    exif = Image.Exif()
    exif[0x0112] = 6
    red.rotate(90, expand=True).save(first / "5.jpg", exif=exif, quality=95)
    clear = red.convert("RGBA")
    clear.putalpha(255)
    clear.save(first / "6.png")
    _check(_load(tmp_path).test, 15)
    Image.fromarray(np.full((40, 60), 257 * 90, np.uint16)).save(first / "0.PNG")
    assert np.count_nonzero((_load(tmp_path).test.images == 90).all(axis=(1, 2, 3))) == 1


def test_a_large_jpeg_is_decoded_smaller_but_never_below_the_size(tmp_path) -> None:
    y, x = np.mgrid[:1000, :1300] / 90
    wavy = np.stack([np.sin(x + y * k) for k in (1, 2, 3)], axis=-1)
    large = Image.fromarray(np.uint8(127.5 + 127.5 * wavy))
    large.save(tmp_path / "a.jpg", quality=98, subsampling=0)
    for size in (37, 200, 480):
        wanted = np.asarray(large.crop((150, 0, 1150, 1000)).resize((size, size), Image.Resampling.BICUBIC))
        difference = np.abs(read_picture(tmp_path / "a.jpg", size, 3).astype(int) - wanted)
        assert difference.mean() < 1


def test_readable_names(folder) -> None:
    (folder / "classes.txt").write_text("n01 cat, tomcat\nn02 crane\nn03 crane\nn04 else\n")
    assert _load(folder).class_names == ("cat", "crane (n02)", "crane (n03)")
    (folder / "LOC_synset_mapping.txt").write_text("n02 heron\n")
    assert _load(folder).class_names == ("n01", "heron", "n03")


def _bomb(path: pathlib.Path) -> None:
    """A PNG that says that it has 100,000 x 100,000 pixels."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b""))


BAD = {
    "empty": (lambda path: path.write_bytes(b""), "it is empty"),
    "text": (lambda path: path.write_text("a picture"), "its content is none of BMP, GIF, JPEG, "),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:400]), "runcated"),
    "bomb": (_bomb, "10000000000 pixels"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_picture_is_named_or_skipped(folder, kind) -> None:
    spoil, reason = BAD[kind]
    path = folder / "train" / "n02" / "3.jpg"
    spoil(path)
    with pytest.raises(UsageError) as caught:
        _load(folder)
    found = str(caught.value)
    assert found.startswith(f"{path}: not a readable picture (")
    assert reason in found
    assert found.endswith(": remove it, or use --on-bad-image skip")
    assert "\n" not in found
    lines: list[str] = []
    splits = _load(folder, skip_bad=True, notify=lines.append)
    assert len(lines) == 1
    assert lines[0].startswith(f"note: unreadable pictures left out: 1; the first: {path}: ")
    assert splits.bad_images == 1
    assert len(splits.train) + len(splits.eval) == 29
    _check(splits.train, len(splits.train))
    _check(splits.eval, len(splits.eval))


def _empty_class(folder: pathlib.Path) -> None:
    for path in (folder / "train" / "n02").iterdir():
        path.rename(path.with_suffix(".txt"))


def _one_class(folder: pathlib.Path) -> None:
    for part in ("train", "val"):
        for name in ("n02", "n03"):
            shutil.rmtree(folder / part / name)


WRONG = {
    "gone": (shutil.rmtree, "there is no such folder"),
    "file": (lambda path: (shutil.rmtree(path), path.write_bytes(b"")), "is a file, not a folder"),
    "empty": (lambda path: (shutil.rmtree(path), path.mkdir()), "has no folder named train: it must hold train/CLASS/"),
    "no val": (lambda path: shutil.rmtree(path / "val"), r"has no folder named val \(or test\): "),
    "flat": (lambda path: (shutil.rmtree(path / "train"), (path / "train").mkdir()), "train holds no pictures in fold"),
    "one": (_one_class, "train holds one class, n01"),
    "empty class": (_empty_class, "no picture in train/n02"),
    "other classes": (
        lambda path: (path / "val" / "n02").rename(path / "val" / "n04"),
        "train and val have other classes: n02 only in train; n04 only in val",
    ),
    "unprintable": (lambda path: (path / "train" / "n02").rename(path / "train" / "\n"), "cannot be printed"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_folder_that_is_laid_out_otherwise(folder, kind) -> None:
    spoil, reason = WRONG[kind]
    spoil(folder)
    with pytest.raises(UsageError, match=f"^folder:{folder}: .*{reason}") as caught:
        _load(folder)
    assert "\n" not in str(caught.value)


def test_a_set_too_large_for_the_memory(folder, monkeypatch) -> None:
    monkeypatch.setattr(memory, "free_host_bytes", lambda: 5_000_000)
    with pytest.raises(
        UsageError, match=r"its 42 pictures of 224x224 are kept in memory and need 0\.0 GB, 0\.0 GB are fr"
    ):
        _load(folder, image_size=224)
    assert len(_load(folder, image_size=224, limit_train=10, limit_eval=5).train) == 10


def test_names_of_data_sets() -> None:
    for name in ("folder:", "tfds:", "folder:a\nb"):
        with pytest.raises(UsageError, match=r"must be (folder:PATH|tfds:NAME)"):
            config.TrainConfig(dataset=name)
    with pytest.raises(UsageError, match="unknown --dataset 'photos:x': known are auto, cifar10, digits, folder:PATH"):
        config.TrainConfig(dataset="photos:x")


def test_a_change_is_named_by_its_folder(folder) -> None:
    def changed() -> set[str]:
        now = describe_split(_load(folder), seed=0)
        return {name for name in {**then, **now} if then.get(name) != now.get(name)}

    then = describe_split(_load(folder), seed=0)
    assert then["classes"] == ["n01", "n02", "n03"]
    assert changed() == set()
    path = folder / "val" / "n02" / "0.jpg"
    content = path.read_bytes()
    path.write_bytes(content[:-2] + b"\0" + content[-2:])  # as many files, the same pixels
    assert changed() == {"val/n02"}
    path.write_bytes(content)
    path.rename(path.with_name("4.jpg"))
    assert changed() == {"val/n02", "sha256"}
    path.with_name("4.jpg").unlink()
    assert changed() == {"val/n02", "test", "sha256"}
    path.write_bytes(content)
    assert changed() == set()


def test_classes_are_known_from_a_record() -> None:
    assert data.class_names("folder:/gone", ["a", "b"]) == ("a", "b")
    for recorded in (["a", "\n"], ["a", 1], "ab"):
        with pytest.raises(UsageError, match=r"^the names of the classes of folder:/gone are damaged: "):
            data.class_names("folder:/gone", recorded)
    with pytest.raises(UsageError, match="unknown dataset 'folder:/gone'"):
        data.class_names("folder:/gone")


def _predicts_what_the_test_saw(folder: pathlib.Path, tmp_path: pathlib.Path, capsys) -> None:
    """A picture whose shape is that of noise: bilinear and bicubic scaling of it give other answers."""
    noise = np.random.default_rng(0).integers(0, 256, (61, 83, 3), np.uint8)
    picture = tmp_path / "noise.png"
    Image.fromarray(noise).save(picture)
    loaded = pretrained.load(tmp_path / "run", "cpu", {}, None)
    test = read_picture(picture, 36, 3)[2:34, 2:34]
    logits = loaded.state.apply_fn(
        {"params": loaded.state.params},
        steps.network_input(loaded.state.replace(central_crop=False), jax.numpy.asarray(test[None])),
    )
    assert predict.main([str(tmp_path / "run"), str(picture)]) == 0
    printed = dict(re.findall(r"([\d.]+)%  (\w+)", capsys.readouterr().out))
    wanted = 100 * np.asarray(jax.nn.softmax(logits))[0]
    assert {name: float(share) for share, name in printed.items()} == {
        name: pytest.approx(share, abs=0.01) for name, share in zip(("red", "green", "blue"), wanted, strict=True)
    }


@pytest.mark.slow
def test_from_training_to_prediction(folder, tmp_path, capsys, monkeypatch) -> None:
    """A run remembers the classes and what it was trained on."""
    monkeypatch.chdir(tmp_path)
    (folder / "val" / "n03" / "1.jpg").write_bytes(b"")
    (folder / "classes.txt").write_text("n01 red\nn02 green\nn03 blue\n")
    flags = ["--dataset", "folder:photos", "--width", "0.05", "--init", "flax", "--batch-size", "8"]
    flags += ["--augment", "paper"]  # 32x32 from 36x36, of which tests see the centre
    assert train.main([*flags, "--num-epochs", "1", "--workdir", "run"]) == 2
    assert capsys.readouterr().err.startswith(f"error: {folder}/val/n03/1.jpg: not a readable picture (it is empty): ")
    flags += ["--on-bad-image", "skip"]
    assert train.main([*flags, "--num-epochs", "1", "--workdir", "run"]) == 0
    out = capsys.readouterr().out
    told = f"dataset    folder:{folder} (a fifth of train is eval, val is test): 24 train, 6 eval, 11 test; 3 classes, "
    assert f"\n{told}36x36x3; unreadable pictures left out: 1\n" in out
    summary = json.loads(pathlib.Path("run/summary.json").read_text())
    assert (summary["dataset"], summary["bad_images"]) == (f"folder:{folder}", 1)
    (test_line,) = re.findall(r"^\[Test     \] .*", out, re.MULTILINE)

    monkeypatch.chdir("/")  # the run knows where its data is
    run, picture = str(tmp_path / "run"), str(folder / "val" / "n02" / "0.jpg")
    assert evaluate.main([f"{run}/model.safetensors"]) == 2  # by itself it does not know that a picture may be left out
    assert "not a readable picture" in capsys.readouterr().err
    shutil.copy(folder / "val" / "n03" / "0.jpg", folder / "val" / "n03" / "1.jpg")
    assert evaluate.main([f"{run}/model.safetensors", "--limit-eval", "11"]) == 0
    (folder / "val" / "n03" / "1.jpg").write_bytes(b"")
    for name in ("model.safetensors", "summary.json"):  # then it is an unfinished one
        for command, answer in (
            (evaluate.main, test_line),
            (lambda words: predict.main([*words, picture]), "%  green"),
        ):
            assert command([run]) == 0
            assert answer in capsys.readouterr().out
        (tmp_path / "run" / name).unlink()

    _predicts_what_the_test_saw(folder, tmp_path, capsys)

    shutil.copy(folder / "train" / "n03" / "0.jpg", folder / "train" / "n03" / "new.jpg")
    assert train.main(["--resume", run, "--num-epochs", "2"]) == 2
    error = capsys.readouterr().err
    assert re.search(r"train/n03 '10 files of [\d,]+ bytes, CRC \w{8}' then, '11 files of", error)
    assert "train/n02" not in error
    (folder / "train" / "n03" / "new.jpg").unlink()
    content = (folder / "train" / "n02" / "0.jpg").read_bytes()
    (folder / "train" / "n02" / "0.jpg").write_bytes(content[:-2] + b"\0" + content[-2:])
    assert train.main(["--resume", run, "--num-epochs", "2"]) == 2
    assert re.search(r"train/n02 '10 files of ", capsys.readouterr().err)
    (folder / "train" / "n02" / "0.jpg").write_bytes(content)
    assert train.main(["--resume", run, "--num-epochs", "2"]) == 0
