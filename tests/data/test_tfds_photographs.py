"""``tfds:NAME``: a set that tensorflow-datasets prepared, without TensorFlow and without a network."""

from __future__ import annotations

import io
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jaxalex import data
from jaxalex.data import pictures
from jaxalex.errors import UsageError

COLOURS = {"red": (200, 0, 0), "green": (0, 200, 0), "blue": (0, 0, 200)}


def _prepare(directory: pathlib.Path, sizes: dict[str, int], bad: int = -1, **more: Any) -> None:
    """Writes the set ``tiles`` 1.0.0: JPEGs of 60x40 pixels, each of its class's colour."""
    import tensorflow_datasets as tfds

    def examples(size: int) -> Iterator[tuple[int, dict[str, Any]]]:
        for i in range(size):
            content = io.BytesIO()
            Image.new("RGB", (60, 40), list(COLOURS.values())[i % 3]).save(content, "JPEG")
            content = io.BytesIO(content.getvalue()[: 200 if i == bad else None])
            yield i, {"image": content, "label": list(COLOURS)[i % 3], "mask": Image.new("L", (60, 40)), "size": i}

    class Tiles(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
        VERSION = tfds.core.Version("1.0.0")

        def _info(self) -> Any:
            features = {
                "image": tfds.features.Image(encoding_format="jpeg"),
                "mask": tfds.features.Image(shape=(None, None, 1), encoding_format="png"),
                "label": tfds.features.ClassLabel(names=list(COLOURS)),
                "size": tfds.features.Scalar(np.int32),
            }
            return self.dataset_info_from_configs(
                features=tfds.features.FeaturesDict(features), supervised_keys=more.get("keys", ("image", "label"))
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            return {name: examples(size) for name, size in sizes.items()}

        def _generate_examples(self) -> Any: ...

    builder = Tiles(data_dir=str(directory), file_format="array_record")
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))


PARTS = {
    "validation": ({"train": 10, "validation": 6}, (8, 2, 6), "a fifth of train is eval, val is test"),
    "test": ({"train": 10, "test": 4}, (8, 2, 4), "a fifth of train is eval, test is test"),
    "both": ({"train": 10, "validation": 6, "test": 4}, (10, 6, 4), "val is eval"),
    "none": ({"train": 10}, (6, 2, 2), "a fifth of train is test, a fifth of the rest eval"),
}


@pytest.mark.parametrize("parts", PARTS)
def test_every_kind_of_split(parts, tmp_path, capfd) -> None:
    published, sizes, told = PARTS[parts]
    _prepare(tmp_path, published)
    capfd.readouterr()
    splits = data.load("tfds:tiles", str(tmp_path), seed=0, image_size=16)
    assert capfd.readouterr() == ("", "")
    assert (splits.name, splits.source, splits.class_names) == ("tfds:tiles", told, tuple(COLOURS))
    for part, size in zip((splits.train, splits.eval, splits.test), sizes, strict=True):
        assert part.images.shape == (size, 16, 16, 3)
        colours = np.array(list(COLOURS.values()))[part.labels]
        np.testing.assert_allclose(part.images[:, 8, 8], colours, atol=8)
    train_and_eval = np.concatenate([splits.train.labels, splits.eval.labels])
    assert len(train_and_eval) == sum(sizes[:2])
    assert data.load("tfds:tiles:1.0.0", str(tmp_path), seed=0, image_size=16, only_test=True).test.images.sum() == (
        splits.test.images.sum(dtype=int)
    )


def test_what_cannot_be_used(tmp_path) -> None:
    def problem(name: str) -> str:
        with pytest.raises(UsageError) as caught:
            data.load(f"tfds:{name}", str(tmp_path), seed=0, image_size=16)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert problem("tiles").startswith(f"no tfds:tiles in {tmp_path}: prepared there is nothing; ")
    _prepare(tmp_path, {"train": 10}, bad=7)
    folder = tmp_path / "tiles" / "1.0.0"
    assert problem("mosaic").startswith(f"no tfds:mosaic in {tmp_path}: prepared there is tfds:tiles:1.0.0; ")
    assert problem("tiles:2.0.0").startswith(f"no tfds:tiles:2.0.0 in {tmp_path}: ")
    assert problem("../tiles") == "tfds:../tiles: must be tfds:NAME, tfds:NAME/CONFIG or tfds:NAME:VERSION"
    assert re.fullmatch(rf"{folder}: train \d+: not a readable picture \(.*\): remove it, or .*", problem("tiles"))
    lines: list[str] = []
    splits = data.load("tfds:tiles", str(tmp_path), 0, image_size=16, skip_bad=True, notify=lines.append)
    assert (splits.bad_images, len(splits.train) + len(splits.eval) + len(splits.test)) == (1, 9)
    assert lines[0].startswith("note: unreadable pictures left out: 1; the first: ")
    (path,) = folder.glob("*.array_record*")
    path.write_bytes(path.read_bytes()[:100])
    assert problem("tiles").startswith(f"{folder}")
    info = folder / "dataset_info.json"
    info.write_text(info.read_text().replace('"array_record"', '"tfrecord"'))
    assert problem("tiles").startswith(f"{folder} cannot be read (Random access data source for file format")
    _prepare(tmp_path / "other", {"train": 10}, keys=("size", "label"))
    with pytest.raises(UsageError, match="it holds image, label, mask, size, not one picture and one class label"):
        data.load("tfds:tiles", str(tmp_path / "other"), seed=0)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_pictures_are_decoded_in_each_epoch_too(workers, tmp_path, capfd) -> None:
    """A worker process opens the set for itself, and is as quiet."""
    _prepare(tmp_path, PARTS["both"][0])
    capfd.readouterr()
    kept = data.load("tfds:tiles", str(tmp_path), seed=0, image_size=16)
    streamed = data.load("tfds:tiles", str(tmp_path), seed=0, image_size=16, room=0, workers=workers)
    rows = np.array([[9, 0, 3], [4, 5, -1]], np.int32)
    with pictures.strict():
        first, second = streamed.train.batches(rows)
    np.testing.assert_array_equal(first.images, kept.train.take(rows[0]).images)
    np.testing.assert_array_equal(first.labels, kept.train.take(rows[0]).labels)
    np.testing.assert_array_equal(second.labels[:2], kept.train.labels[[4, 5]])
    assert second.labels[2] == -1
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_a_folder_is_prepared_as_the_documentation_says(tmp_path) -> None:
    folder, directory = tmp_path / "photos", tmp_path / "prepared"
    for part, count in (("train", 5), ("val", 2)):
        for name, colour in COLOURS.items():
            (folder / part / name).mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (60, 40), colour).save(folder / part / name / f"{name}{i}.JPEG")
    guide = (pathlib.Path(__file__).parents[2] / "docs" / "data.md").read_text()
    (tmp_path / "prepare.py").write_text(guide.partition("```python\n")[2].partition("```")[0])
    subprocess.run([sys.executable, "prepare.py", folder, directory], cwd=tmp_path, check=True, capture_output=True)
    splits = data.load("tfds:imagenette224", str(directory), seed=0, image_size=16)
    assert splits.class_names == ("blue", "green", "red")
    assert (len(splits.train), len(splits.eval), len(splits.test)) == (12, 3, 6)
    wanted = np.array([COLOURS[splits.class_names[label]] for label in splits.test.labels])
    np.testing.assert_allclose(splits.test.images[:, 8, 8], wanted, atol=8)
