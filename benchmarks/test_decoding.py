"""The benchmark of decoders, on a few pictures."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from benchmarks import decoding


def test_a_wrong_folder_is_one_line(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert decoding.main([str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err == f"error: folder:{tmp_path / 'none'}: there is no such folder\n"
    for part in ("train", "val"):
        for name in ("a", "b"):
            (tmp_path / part / name).mkdir(parents=True)
            Image.new("RGB", (20, 20)).save(tmp_path / part / name / "0.jpg")
    assert decoding.main([str(tmp_path)]) == 2
    assert "needs at least 32 pictures in train" in capsys.readouterr().err


@pytest.mark.slow
def test_every_way_has_a_rate(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)
    for part, count in (("train", 20), ("val", 1)):
        for name in ("a", "b"):
            (tmp_path / "set" / part / name).mkdir(parents=True)
            for i in range(count):
                Image.fromarray(pixels).save(tmp_path / "set" / part / name / f"{i}.jpg")
    flags = [str(tmp_path / "set"), "--image-size", "32", "--repeats", "2", "--json", str(tmp_path / "found.json")]
    assert decoding.main(flags) == 0
    text = (tmp_path / "found.json").read_text()
    rows = {row["what"]: row for row in json.loads(text)["decoding"]["rows"]}
    assert {"Pillow", "torchvision", "the loader of training"} <= rows.keys()
    assert all(row["images_per_second"] > 0 and row["n"] == 2 for row in rows.values())
    assert rows["Pillow"]["ratio"] == 1
    assert str(tmp_path) not in text
    out = capsys.readouterr().out
    assert out.count(" images/s   ") == len(rows)
