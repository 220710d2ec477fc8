"""What becomes of a picture on its way into the network: every format and kind of pixel, values written out."""

from __future__ import annotations

import pathlib
import struct

import numpy as np
import pytest
from PIL import Image

from jaxalex.data.pictures import as_rgb, read_picture
from jaxalex.errors import UsageError

WHITE, BLACK = [255, 255, 255], [0, 0, 0]
LOSSLESS = {"BMP", "GIF", "PNG", "PPM", "TIFF", "WEBP"}


def _written(folder: pathlib.Path, image: Image.Image, kind: str, **options: object) -> pathlib.Path:
    path = folder / f"picture.{kind}"
    image.save(path, kind, **{"lossless": True} if kind == "WEBP" else {}, **options)
    return path


def _half(mode: str, left: object, right: object) -> Image.Image:
    """8x8, the left half of one colour and the right half of another."""
    image = Image.new(mode, (8, 8), left)
    image.paste(right, (4, 0, 8, 8))
    return image


def _ends(pixels: np.ndarray) -> list[list[int]]:
    return [pixels[0, 0].tolist(), pixels[-1, -1].tolist()]


def _palette(transparent: bool) -> Image.Image:
    image = Image.new("P", (8, 8), 0)
    image.putpalette([200, 0, 0, 0, 0, 100])
    image.paste(1, (4, 0, 8, 8))
    if transparent:
        image.info["transparency"] = 1
    return image


OPAQUE = [
    (_half("1", 1, 0), {"BMP", "PNG", "PPM", "TIFF"}, [WHITE, BLACK]),
    (_half("L", 200, 10), LOSSLESS, [[200] * 3, [10] * 3]),
    (_half("RGB", (200, 100, 50), (1, 2, 3)), LOSSLESS, [[200, 100, 50], [1, 2, 3]]),
    (_palette(False), {"BMP", "GIF", "PNG", "TIFF", "WEBP"}, [[200, 0, 0], [0, 0, 100]]),
    (_half("CMYK", (0, 255, 255, 0), (255, 255, 0, 0)), {"TIFF"}, [[255, 0, 0], [0, 0, 255]]),
    (_half("YCbCr", (255, 128, 128), (0, 128, 128)), {"TIFF"}, [WHITE, BLACK]),
    (_half("RGBX", (9, 8, 7, 0), (1, 2, 3, 0)), {"TIFF"}, [[9, 8, 7], [1, 2, 3]]),
]


@pytest.mark.parametrize("image", OPAQUE, ids=lambda case: case[0].mode)
def test_opaque_pictures(image, tmp_path) -> None:
    picture, kinds, expected = image
    for kind in kinds:
        assert _ends(read_picture(_written(tmp_path, picture, kind), 8, 3)) == expected, kind


def test_lab(tmp_path) -> None:
    found = read_picture(_written(tmp_path, _half("LAB", (255, 128, 128), (0, 128, 128)), "TIFF"), 8, 3)
    np.testing.assert_allclose(_ends(found), [WHITE, BLACK], atol=2)  # by way of a colour profile


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        (_half("L", 200, 10), [[200] * 3, [10] * 3]),
        (_half("RGB", (200, 100, 50), (1, 2, 3)), [[200, 100, 50], [1, 2, 3]]),
        (_half("CMYK", (0, 0, 0, 255), (0, 0, 0, 0)), [BLACK, WHITE]),
    ],
)
def test_jpeg(picture, expected, tmp_path) -> None:
    found = read_picture(_written(tmp_path, picture, "JPEG", quality=100, subsampling=0), 8, 3)
    np.testing.assert_allclose(_ends(found), expected, atol=3)


TRANSPARENT = [
    (_half("LA", (10, 255), (10, 0)), {"PNG", "TIFF", "WEBP"}, [[10] * 3, WHITE]),
    (_half("RGBA", (1, 2, 3, 255), (1, 2, 3, 0)), {"GIF", "PNG", "TIFF", "WEBP"}, [[1, 2, 3], WHITE]),
    (_half("RGBA", (0, 0, 0, 51), (200, 100, 0, 0)), {"PNG", "TIFF", "WEBP"}, [[204] * 3, WHITE]),
    (_palette(True), {"GIF", "PNG"}, [[200, 0, 0], WHITE]),
]


@pytest.mark.parametrize("image", TRANSPARENT, ids=lambda case: case[0].mode)
def test_what_is_transparent_is_white(image, tmp_path) -> None:
    picture, kinds, expected = image
    options = {"transparency": 1} if picture.mode == "P" else {}
    for kind in kinds:
        assert _ends(read_picture(_written(tmp_path, picture, kind, **options), 8, 3)) == expected, kind


@pytest.mark.parametrize(
    ("picture", "transparency", "expected"),
    [
        (_half("1", 1, 0), 0, [WHITE, WHITE]),
        (_half("L", 200, 10), 10, [[200] * 3, WHITE]),
        (_half("RGB", (9, 8, 7), (1, 2, 3)), (1, 2, 3), [[9, 8, 7], WHITE]),
        (_half("I;16", 0, 257), 257, [BLACK, WHITE]),
    ],
)
def test_one_transparent_colour_in_a_png(picture, transparency, expected, tmp_path) -> None:
    path = _written(tmp_path, picture, "PNG", transparency=transparency)
    assert _ends(read_picture(path, 8, 3)) == expected


def test_modes_that_no_file_has_on_its_own() -> None:
    assert np.asarray(as_rgb(_half("La", (0, 0), (10, 255))))[0, [0, 7]].tolist() == [WHITE, [10] * 3]
    assert np.asarray(as_rgb(_half("RGBa", (0, 0, 0, 0), (1, 2, 3, 255))))[0, [0, 7]].tolist() == [WHITE, [1, 2, 3]]
    assert np.asarray(as_rgb(_half("HSV", (0, 0, 255), (0, 255, 255))))[0, [0, 7]].tolist() == [WHITE, [255, 0, 0]]
    alpha = Image.merge("PA", (_palette(False), Image.new("L", (8, 8), 0)))
    assert np.asarray(as_rgb(alpha))[0, 0].tolist() == WHITE


def test_sixteen_bits_are_scaled(tmp_path) -> None:
    values = np.array([[0, 257, 128 * 257, 65535]], np.uint16).repeat(4, axis=0)
    for kind in ("PNG", "TIFF", "PPM"):
        path = _written(tmp_path, Image.fromarray(values), kind)
        assert read_picture(path, 4, 1)[0, :, 0].tolist() == [0, 1, 128, 255], kind
        assert read_picture(path, 4, 3)[0].tolist() == [[v] * 3 for v in (0, 1, 128, 255)], kind
    big = Image.frombytes("I;16B", (4, 4), values.astype(">u2").tobytes())
    assert read_picture(_written(tmp_path, big, "TIFF"), 4, 1)[0, :, 0].tolist() == [0, 1, 128, 255]


def _tiff(values: np.ndarray, bits: int, data: bytes, photometric: int = 1, sample_format: int = 1) -> bytes:
    """A TIFF of one grey strip, written from the format's description."""
    height, width = values.shape
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1), (278, height)]
    tags += [(279, len(data)), (339, sample_format)]
    data += b"\0" * (len(data) % 2)
    head = b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags))
    return head + b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags) + bytes(4)


def test_sixteen_bits_with_white_as_zero_and_twelve_bits(tmp_path) -> None:
    path, values = tmp_path / "picture.tif", np.array([[0, 65535]], "<u2").repeat(2, axis=0)
    path.write_bytes(_tiff(values, 16, values.tobytes(), photometric=0))
    assert read_picture(path, 2, 1)[0, :, 0].tolist() == [255, 0]
    path.write_bytes(_tiff(values, 12, bytes.fromhex("000fff") * 2))
    assert read_picture(path, 2, 1)[0, :, 0].tolist() == [0, 255]


def test_sixteen_bits_in_colour(tmp_path) -> None:
    import zlib

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    def png(colour_type: int, row: bytes, *more: bytes) -> bytes:
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 2, 16, colour_type, 0, 0, 0))
        rows = chunk(b"IDAT", zlib.compress(2 * (b"\0" + row)))
        return b"\x89PNG\r\n\x1a\n" + header + b"".join(more) + rows + chunk(b"IEND", b"")

    path = tmp_path / "picture.png"
    path.write_bytes(png(2, struct.pack(">6H", 65535, 0, 128 * 257, 0, 257, 65535)))
    assert read_picture(path, 2, 3)[0].tolist() == [[255, 0, 128], [0, 1, 255]]
    path.write_bytes(png(6, struct.pack(">8H", 65535, 0, 0, 65535, 0, 0, 0, 0)))
    assert read_picture(path, 2, 3)[0].tolist() == [[255, 0, 0], WHITE]
    path.write_bytes(png(4, struct.pack(">4H", 257, 65535, 0, 0)))
    assert read_picture(path, 2, 3)[0].tolist() == [[1, 1, 1], WHITE]
    first = struct.pack(">3H", 65535, 0, 257)
    path.write_bytes(png(2, first + struct.pack(">3H", 0, 0, 0), chunk(b"tRNS", first)))
    assert read_picture(path, 2, 3)[0].tolist() == [WHITE, BLACK]


@pytest.mark.parametrize(("mode", "kind"), [("I", "TIFF"), ("F", "TIFF"), ("F", "PPM")])
def test_numbers_without_a_range_are_refused(mode: str, kind: str, tmp_path) -> None:
    path = _written(tmp_path, Image.new(mode, (4, 4), 1), kind)
    with pytest.raises(
        UsageError, match=rf"^{path}: not a readable picture \(it holds (32-bit|floating-point) "
    ) as caught:
        read_picture(path, 4, 3)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "TIFF", "WEBP"])
def test_an_animation_is_its_first_picture(kind: str, tmp_path) -> None:
    first, second = Image.new("RGB", (8, 8), (255, 0, 0)), Image.new("RGB", (8, 8), (0, 0, 255))
    path = _written(tmp_path, first, kind, save_all=True, append_images=[second])
    assert _ends(read_picture(path, 8, 3)) == [[255, 0, 0], [255, 0, 0]]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_a_picture_taken_sideways_is_upright(kind: str, tmp_path) -> None:
    """Orientation 6: the camera was turned; the left half of what is stored is the top."""
    exif = Image.Exif()
    exif[0x0112] = 6
    found = read_picture(_written(tmp_path, _half("L", 255, 0), kind, exif=exif), 8, 1)[..., 0]
    np.testing.assert_allclose(found[[0, 0, 7, 7], [0, 7, 0, 7]], [255, 255, 0, 0], atol=6)
    if kind in ("PNG", "TIFF"):
        values = np.zeros((8, 8), np.uint16)
        values[:, :4] = 65535
        found = read_picture(_written(tmp_path, Image.fromarray(values), kind, exif=exif), 8, 1)[..., 0]
        assert found[[0, 0, 7, 7], [0, 7, 0, 7]].tolist() == [255, 255, 0, 0]


def test_a_strip_does_not_become_gigabytes(tmp_path) -> None:
    picture = Image.new("L", (80_000, 2), 7)
    picture.paste(200, (40_000, 0, 80_000, 2))
    picture.save(tmp_path / "strip.png")
    found = read_picture(tmp_path / "strip.png", 224, 1, 4096)[..., 0]
    # Each pixel is 2048 wide now: the centre is within 112 / 2048 of the edge, half-way between 7 and 200.
    assert np.unique(found[:, [0, -1]], axis=0).tolist() == [[93, 114]]
