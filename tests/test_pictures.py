"""What is drawn: which pictures are chosen, in which order, where and in what colours; values worked out by hand."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
from PIL import Image

from jaxalex import predict
from jaxalex.training import chart, examples, filters, pictures


class _Images:
    """A test set that is not in memory; it remembers what it was asked for."""

    def __init__(self, channels: int = 3) -> None:
        self.asked: list[list[int]] = []
        self._channels = channels

    def __call__(self, indices: np.ndarray) -> np.ndarray:
        self.asked.append(indices.tolist())
        return np.random.default_rng(0).integers(0, 256, (len(indices), 6, 6, self._channels), dtype=np.uint8)


def _box(path: pathlib.Path, colour: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the one rectangle that has a colour."""
    with Image.open(path) as image:
        found = (np.asarray(image.convert("RGB")) == colour).all(axis=-1)
    rows, columns = np.flatnonzero(found.any(axis=1)), np.flatnonzero(found.any(axis=0))
    box = int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
    assert found.sum() == (box[2] - box[0]) * (box[3] - box[1])
    return box


def _is_png(path: pathlib.Path) -> bool:
    with Image.open(path) as image:
        return image.format == "PNG" and len(image.convert("RGB").getcolors(1 << 20)) > 10


def test_filters_of_two_towers(tmp_path) -> None:
    kernel = np.zeros((11, 11, 3, 4), np.float32)
    kernel[..., 0, 0] = 1000  # its own scale: it does not make the others grey
    kernel[..., 1, 1] = 1
    kernel[..., 2, 2] = -0.5
    kernel[..., 3] = [1, 0.5, 0]
    path = tmp_path / "filters.png"
    filters.write_filters(path, {"conv1": {"kernel": kernel}}, "original", "$\\odd$ title")
    # Zero is 127.5, rounded to the even 128; half of the largest weight 191.25.
    red, green, yellow, orange = (
        _box(path, colour) for colour in ((255, 128, 128), (128, 255, 128), (128, 128, 0), (255, 191, 128))
    )
    sides = {(right - left, bottom - top) for left, top, right, bottom in (red, green, yellow, orange)}
    assert sides == {(110, 110)}  # ten pixels for each of the filter's
    assert (red[1], yellow[1]) == (green[1], orange[1])
    assert (red[0], green[0]) == (yellow[0], orange[0])
    assert 1 <= green[0] - red[2] < 10, "a thin gap"
    assert yellow[1] - red[3] > 30, "room for the second tower's name"


def test_filters_in_a_grid() -> None:
    tiles = np.arange(3, dtype=np.uint8).reshape(3, 1, 1, 1) * np.ones((1, 1, 2, 3), np.uint8)
    assert filters.grid(tiles, across=2, zoom=1, gap=1)[..., 0].tolist() == [
        [0, 0, 255, 1, 1],
        [255, 255, 255, 255, 255],
        [2, 2, 255, 255, 255],
    ]
    assert filters.grid(tiles[1:2], across=1, zoom=2, gap=9).shape == (2, 4, 3)


@pytest.mark.parametrize(("model", "shape"), [("cifar10", (3, 3, 1, 1)), ("paper", (11, 11, 3, 7))])
def test_filters_of_any_network(model: str, shape: tuple[int, ...], tmp_path) -> None:
    params = {"conv1": {"kernel": np.random.default_rng(0).normal(size=shape)}}
    filters.write_filters(tmp_path / "filters.png", params, model, model)
    assert len(filters.as_pixels(np.zeros(shape))) == shape[-1]
    with Image.open(tmp_path / "filters.png") as image:
        assert image.width >= 700


def test_the_most_confident_mistakes_come_first(tmp_path) -> None:
    labels = np.array([0, 0, 1, 2, 2, 0])
    logits = np.array(
        [
            [0, 3, 0],  # wrong, 0.909
            [9, 0, 0],
            [40, 0, 0],  # wrong, and so sure that its probability is 1 in float32
            [70, 0, 0],  # even surer
            [0, 5, 5.1],
            [5, 0, 6],  # wrong, 0.730, though its logit is larger than that of the first
        ],
        np.float32,
    )
    images = _Images()
    examples.write_mistakes(tmp_path / "mistakes.png", images, labels, logits, ["cat", "犬", "$\\odd$"])
    assert images.asked == [[3, 2, 0, 5]]
    assert _is_png(tmp_path / "mistakes.png")


def test_a_page_of_mistakes_and_none(tmp_path) -> None:
    logits = np.random.default_rng(1).normal(size=(200, 2))
    logits[:, 0] += 9
    images = _Images(channels=1)
    names = ["a class with a name that is longer than any picture is wide"] * 2
    examples.write_mistakes(tmp_path / "many.png", images, np.ones(200, int), logits, names)
    margins = logits[:, 0] - logits[:, 1]
    assert images.asked == [np.argsort(-margins)[:32].tolist()]
    examples.write_mistakes(tmp_path / "none.png", images, np.zeros(200, int), logits, names)
    assert len(images.asked) == 1
    assert _is_png(tmp_path / "none.png")


def test_examples_of_each_class(tmp_path) -> None:
    labels = np.array([1, 0, 2, 1, *[0] * 9])
    images = _Images()
    examples.write_examples(tmp_path / "few.png", images, labels, np.eye(4)[labels], ["a", "b", "c", "none"])
    assert images.asked == [[1, 4, 5, 6, 7, 8, 9, 10, 0, 3, 2]]  # eight of the ten of the first class
    assert _is_png(tmp_path / "few.png")
    labels = np.arange(25)[::-1]
    examples.write_examples(tmp_path / "many.png", images, labels, np.eye(25), [str(n) for n in range(25)])
    assert images.asked[1] == list(range(24, 4, -1))  # of 20 classes


def test_predictions_ask_for_what_is_shown(tmp_path) -> None:
    labels, logits = np.zeros(100, int), np.tile([1.0, 0.0], (100, 1))
    logits[[3, 50, 60]] = 0, 1
    images = _Images()
    pictures.write_predictions(
        tmp_path / "predictions.png", images, labels, logits, ["a", "$\\odd$"], columns=4, rows=2
    )
    assert images.asked == [[0, 1, 2, 3, 50, 60, 4, 5]]
    assert _is_png(tmp_path / "predictions.png")


def test_a_chart_shows_pictures_and_probabilities(tmp_path) -> None:
    images = np.zeros((2, 80, 80, 3), np.uint8)
    images[0], images[1] = (200, 30, 30), (20, 160, 40)
    path = tmp_path / "chart.png"
    probabilities = np.array([[0.25, 0.75, 0.0], [0.1, 0.0, 0.9]])
    chart.write_chart(path, ["x" * 200 + ".jpg", "two\udcff.jpg"], images, probabilities, ["cat", "dog", "owl"], top=1)
    boxes = [_box(path, colour) for colour in ((200, 30, 30), (20, 160, 40))]
    assert {(right - left, bottom - top) for left, top, right, bottom in boxes} == {(288, 288)}  # 2.4 inches
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    blue = (pixels == (0x1F, 0x6F, 0xB4)).all(axis=-1)
    bars = [int(blue[:, start:stop].any(axis=0).sum()) for start, stop in ((0, boxes[1][0]), (boxes[1][0], None))]
    np.testing.assert_allclose(bars, [0.75 * 324, 0.9 * 324], atol=2)  # of 2.7 inches


def test_a_chart_that_cannot_be_written_is_refused_before_the_work(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    pathlib.Path("folder.png").mkdir()
    pathlib.Path("file").touch()
    pathlib.Path("cat.png").touch()
    for flags, message in (
        (["--chart", "chart.jpg"], "--chart chart.jpg: its name must end in .png"),
        (["--chart", "none/chart.png"], "--chart none/chart.png: there is no folder none"),
        (["--chart", "file/chart.png"], "--chart file/chart.png: file is a file"),
        (["--chart", "folder.png"], "--chart folder.png: is a folder"),
        (["--chart", "cat.png"], "--chart cat.png: is one of the pictures"),
        (["--chart", f"{'x' * 240}.png"], "its name is longer than"),
        (["--chart", "chart.png", "--top", "21"], "at most 20 classes"),
        ([*["more.png"] * 32, "--chart", "chart.png"], "--chart takes at most 32 pictures, not 33"),
    ):
        # The network is not there either, and would be refused next.
        assert predict.main(["none.safetensors", "cat.png", *flags]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert message in error
        assert error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cat.png", "file", "folder.png"]
