"""Picture files to RGB, as viewers show them: upright, 8 bits, transparency over white."""

import io
import struct
import zlib
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

from smaug_core.data.media.location import MediaLocation
from smaug_core.errors import ClipError, MissingClipError

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})
JPEG = frozenset({".jpg", ".jpeg"})
EXIF, SEARCHED = b"Exif\0\0", 2**17
"""Start of EXIF's segment, and where it is looked for: it comes among the first ones."""
MOST_PIXELS = 2**26
"""Of a JPEG that is decoded without Pillow, which warns of larger ones."""
DAMAGE = (
    *(OSError, SyntaxError, ValueError, TypeError, EOFError, LookupError, ArithmeticError, AttributeError),
    *(MemoryError, RuntimeError, AssertionError, struct.error, zlib.error),
)
"""Errors that Pillow's decoders raise for damaged files, beside its own."""
ORIENTATION = 0x0112
"""EXIF's tag of the camera's orientation."""


def read_still(media: MediaLocation) -> UInt8[np.ndarray, "height width 3"]:
    """The picture of a file, or the first of an animation, turned as its EXIF orientation says.

    Values of 16 bits keep their upper 8; transparent parts are laid over white.

    Raises:
        ClipError: the file is missing, damaged, too large, or holds numbers without a known white.
    """
    from PIL import Image

    is_jpeg = media.suffix in JPEG
    content = media.read() if is_jpeg or media.length is not None else None
    if is_jpeg and content is not None and (picture := _plain_jpeg(content)) is not None:
        return picture
    try:
        with Image.open(media.path if content is None else io.BytesIO(content)) as image:
            return _upright(_to_rgb(image, media), _orientation(image))
    except FileNotFoundError as error:
        raise MissingClipError(f"{media}: no such file") from error
    except (*DAMAGE, Image.DecompressionBombError) as error:
        raise ClipError(f"{media}: not a readable picture ({str(error) or type(error).__name__})") from error


def _plain_jpeg(content: bytes) -> UInt8[np.ndarray, "height width 3"] | None:
    """Decode a JPEG by libjpeg-turbo; None if it is damaged, large, turned by EXIF, or not grey or YCbCr."""
    import simplejpeg

    if EXIF in content[:SEARCHED]:
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
        if colours not in ("YCbCr", "Gray") or height * width > MOST_PIXELS:
            return None
        picture: UInt8[np.ndarray, "height width 3"] = simplejpeg.decode_jpeg(content, colorspace="RGB")
    except ValueError:
        return None  # Pillow's reader names what is wrong
    return picture


def _to_rgb(image: "Image", media: MediaLocation) -> UInt8[np.ndarray, "height width 3"]:
    from PIL import Image

    image.load()
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        grey = np.asarray(image).astype(np.int64)
        clear = image.info.get("transparency")
        levels = np.where(grey == clear, 255, grey >> 8) if isinstance(clear, int) else grey >> 8
        return np.repeat(levels.astype(np.uint8)[:, :, None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise ClipError(f"{media}: its pixels are numbers of mode {image.mode}; expected levels of 1 to 16 bits")
    if not image.has_transparency_data:
        return np.asarray(image.convert("RGB"))
    clear = image.info.get("transparency")
    if isinstance(clear, tuple) and max(clear) > 255:  # of 16 bits, where Pillow keeps the upper 8 of the pixels
        image.info["transparency"] = tuple(level >> 8 for level in clear)
    shown = image.convert("RGBA")
    return np.asarray(Image.alpha_composite(Image.new("RGBA", shown.size, "white"), shown).convert("RGB"))


def _orientation(image: "Image") -> int:
    """EXIF's number, 1 to 8; 1 where there is none, or none that can be read, as viewers and ffmpeg take it."""
    try:
        found = image.getexif().get(ORIENTATION, 1)
    except DAMAGE:
        return 1
    return found if found in range(1, 9) else 1


def _upright(
    picture: UInt8[np.ndarray, "height width 3"], orientation: int
) -> UInt8[np.ndarray, "upright_height upright_width 3"]:
    """Undo the camera's orientation: 5 to 8 lie on their side, and 2, 4, 5 and 7 are mirrored."""
    if orientation >= 5:
        picture = picture.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        picture = picture[::-1]
    if orientation in (2, 3, 6, 7):
        picture = picture[:, ::-1]
    return np.ascontiguousarray(picture)
