"""Pictures as viewers show them: upright, 8 bits, transparency over white, whatever their mode."""

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from smaug_core.data.media.stills import ORIENTATION
from smaug_core.data.media.video import read_frames
from smaug_core.errors import ClipError
from tests.data.media.made import every

WHITE = [255, 255, 255]


def picture() -> np.ndarray:
    """Smooth, without any symmetry."""
    y, x = np.indices((24, 40))
    return np.stack([6 * x, 10 * y, 3 * (x + y)], axis=2).astype(np.uint8)


def read(path: Path) -> np.ndarray:
    return read_frames(path, every)[0]


def saved(image: Image.Image, path: Path, **how: object) -> np.ndarray:
    image.save(path, **how)
    return read(path)


def as_held(upright: np.ndarray, orientation: int) -> np.ndarray:
    """The picture as stored by a camera: where row 0 and column 0 of the stored picture lie, by EXIF's table."""
    row, column = {
        **{1: ("top", "left"), 2: ("top", "right"), 3: ("bottom", "right"), 4: ("bottom", "left")},
        **{5: ("left", "top"), 6: ("right", "top"), 7: ("right", "bottom"), 8: ("left", "bottom")},
    }[orientation]
    stored = upright
    if "bottom" in (row, column):
        stored = stored[::-1]
    if "right" in (row, column):
        stored = stored[:, ::-1]
    return stored if row in ("top", "bottom") else stored.swapaxes(0, 1)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_pictures_stand_upright(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    held = Image.fromarray(np.ascontiguousarray(as_held(picture(), orientation)))
    how = {"png": {}, "jpg": {"quality": 100, "subsampling": 0}, "webp": {"lossless": True}}[suffix]
    found = saved(held, tmp_path / f"still.{suffix}", exif=exif, **how)
    assert found.shape == picture().shape
    assert np.abs(found.astype(int) - picture()).max() <= (4 if suffix == "jpg" else 0)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_is_none_turns_nothing(tmp_path, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    assert np.array_equal(saved(Image.fromarray(picture()), tmp_path / "still.png", exif=exif), picture())


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_exif_that_cannot_be_read_turns_nothing(tmp_path):
    exif = b"Exif\0\0" + b"MM\0*\0\0\0\x08" + b"\xff" * 40
    found = saved(Image.fromarray(picture()), tmp_path / "still.jpg", exif=exif, quality=100, subsampling=0)
    assert np.abs(found.astype(int) - picture()).max() <= 4


def test_16_bits_are_scaled_and_not_clipped(tmp_path):
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    for suffix in ("png", "tif"):
        found = saved(Image.fromarray(levels), tmp_path / f"deep.{suffix}")
        assert np.abs(found[:, :, 0].astype(float) - levels / 257).max() < 1
        assert (found[0, 0].tolist(), found[-1, -1].tolist()) == ([0, 0, 0], WHITE)
        assert (found == found[:, :, :1]).all()


def test_one_level_of_16_bits_may_be_transparent(tmp_path):
    levels = np.array([[0, 1000], [30000, 65535]], dtype=np.uint16)
    found = saved(Image.fromarray(levels), tmp_path / "deep.png", transparency=30000)
    assert found[:, :, 0].tolist() == [[0, 3], [255, 255]]


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "LA", "RGBA", "CMYK", "YCbCr"])
def test_every_mode_becomes_the_colours_that_it_stands_for(tmp_path, mode):
    base = Image.fromarray(picture())
    suffix = {"CMYK": "tif", "YCbCr": "jpg"}.get(mode, "png")
    how = {"quality": 100, "subsampling": 0} if suffix == "jpg" else {}
    found = saved(base.convert(mode), tmp_path / f"still.{suffix}", **how)
    most = 4 if suffix == "jpg" else 0
    assert np.abs(found.astype(int) - np.asarray(base.convert(mode).convert("RGB"))).max() <= most


@pytest.mark.parametrize(
    ("mode", "colour"), [("RGBA", (10, 20, 30, 128)), ("LA", (10, 128)), ("RGBA", (10, 20, 30, 0))]
)
def test_transparency_is_laid_over_white(tmp_path, mode, colour):
    *levels, alpha = colour
    expected = [round((level * alpha + 255 * (255 - alpha)) / 255) for level in levels]
    for suffix in ("png", "webp"):
        found = saved(
            Image.new(mode, (8, 8), colour),
            tmp_path / f"clear.{suffix}",
            **({"lossless": True} if suffix == "webp" else {}),
        )
        assert np.abs(found[0, 0].astype(int) - expected * (3 // len(expected))).max() <= 1


def test_palettes_may_be_transparent(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([200, 0, 0, 0, 0, 200])
    image.putdata([0, 1])
    assert saved(image, tmp_path / "solid.png")[0].tolist() == [[200, 0, 0], [0, 0, 200]]
    assert saved(image, tmp_path / "clear.png", transparency=1)[0].tolist() == [[200, 0, 0], WHITE]
    halves = saved(image, tmp_path / "half.png", transparency=bytes([255, 128]))[0].tolist()
    assert halves == [[200, 0, 0], [127, 127, 227]]
    grey = Image.fromarray(np.array([[7, 9]], dtype=np.uint8))
    assert saved(grey, tmp_path / "grey.png", transparency=9)[0].tolist() == [[7, 7, 7], WHITE]


def test_inks_become_colours_with_and_without_the_marker_of_adobe(tmp_path):
    """Viewers take the inks of every JPEG as inverted, as Adobe stores them."""
    inks = Image.merge("CMYK", [Image.new("L", (16, 16), level) for level in (255, 0, 128, 51)])
    marked = saved(inks, tmp_path / "marked.jpg", quality=100)
    data = (tmp_path / "marked.jpg").read_bytes()
    start = data.index(b"\xff\xee")
    end = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
    (tmp_path / "plain.jpg").write_bytes(data[:start] + data[end:])
    for found in (marked, read(tmp_path / "plain.jpg")):
        assert np.abs(found[0, 0].astype(int) - [0, 204, 102]).max() <= 3


def test_numbers_without_a_known_white_are_refused(tmp_path):
    Image.fromarray(np.full((4, 4), 0.5, dtype=np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(ClipError, match=r"float\.tif: its pixels are numbers of mode F; expected levels"):
        read(tmp_path / "float.tif")


def bytes_of(image: Image.Image, kind: str, **how: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **how)
    return file.getvalue()


BASE = Image.fromarray(picture())
HELD = Image.Exif()
HELD[ORIENTATION] = 6
FILES = {
    "png": [bytes_of(BASE, "png", exif=HELD), bytes_of(BASE.convert("P"), "png", transparency=3)],
    "jpg": [bytes_of(BASE, "jpeg", exif=HELD), bytes_of(BASE.convert("CMYK"), "jpeg")],
    "webp": [bytes_of(BASE.convert("RGBA"), "webp")],
    "bmp": [bytes_of(BASE, "bmp")],
}


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
@pytest.mark.filterwarnings("ignore")
def test_nothing_but_a_clip_error_leaves_the_reader(tmp_path, data):
    suffix = data.draw(st.sampled_from(list(FILES)))
    content = bytearray(data.draw(st.sampled_from(FILES[suffix])))
    places = st.integers(0, len(content) - 1)
    for place, piece in data.draw(st.lists(st.tuples(places, st.binary(max_size=6)), max_size=8)):
        content[place : place + len(piece)] = piece
    if data.draw(st.booleans()):
        del content[data.draw(places) :]
    path = tmp_path / f"broken.{suffix}"
    path.write_bytes(content)
    try:
        assert read(path).dtype == np.uint8
    except ClipError as error:
        assert str(path) in str(error)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(1, 90),
    st.integers(1, 90),
    st.sampled_from(["RGB", "L"]),
    st.integers(30, 100),
    st.sampled_from([0, 1, 2]),
)
def test_a_plain_jpeg_is_decoded_as_pillow_decodes_it(tmp_path, height, width, mode, quality, subsampling):
    pixels = np.random.default_rng(height * width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    how = {"quality": quality, "subsampling": subsampling} if mode == "RGB" else {"quality": quality}
    found = saved(Image.fromarray(pixels).convert(mode), tmp_path / "still.jpg", **how)
    assert np.array_equal(found, np.asarray(Image.open(tmp_path / "still.jpg").convert("RGB")))
