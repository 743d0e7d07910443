"""Contact sheet of a split: an HTML page of its own with frames and captions, spread over all rows."""

import base64
from collections.abc import Sequence
from html import escape

import numpy as np
from jaxtyping import UInt8

from smaug_core.data.manifest import Manifest, Sample
from smaug_core.data.media.frame_record import encode_frame
from smaug_core.data.media.video import read_frames
from smaug_core.errors import ClipError

FRAMES = 4
"""Frames of a clip that are shown."""
HEIGHT = 160
"""Pixels of a frame on the page."""
QUALITY = 85
PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>{title}</title>
<style>
body {{ font: 15px/1.4 system-ui, sans-serif; margin: 2rem auto; max-width: 80rem; padding: 0 1rem }}
figure {{ border-top: 1px solid #ccc; margin: 1rem 0; padding-top: 1rem }}
img {{ height: {height}px; margin-right: 4px }}
code, .error {{ font: 13px ui-monospace, monospace; overflow-wrap: anywhere }}
.error {{ color: #a00 }}
</style>
<h1>{title}</h1>
{figures}
</html>
"""


def contact_sheet(manifest: Manifest, title: str, count: int) -> str:
    """Return an HTML page of `count` rows, evenly spread, or of all if there are fewer. It needs no other file.

    Raises:
        SmaugError: the manifest is damaged. Media that cannot be read are shown as their error.
    """
    count = min(count, len(manifest))
    figures = "\n".join(_figure(manifest[place * len(manifest) // count]) for place in range(count))
    return PAGE.format(title=escape(title), height=HEIGHT, figures=figures)


def _figure(sample: Sample) -> str:
    try:
        frames = read_frames(sample.media, _spread_frames)
        shown = "".join(f'<img alt="" src="data:image/jpeg;base64,{_thumbnail(frame)}">' for frame in frames)
    except ClipError as error:
        shown = f'<p class="error">{escape(str(error))}</p>'
    caption = f"<figcaption><p>{escape(sample.caption)}</p><code>{escape(sample.id)}</code></figcaption>"
    return f"<figure>{shown}{caption}</figure>"


def _spread_frames(available: int) -> Sequence[int]:
    """Frames in the middle of equal parts of a clip."""
    count = min(FRAMES, available)
    return [(2 * part + 1) * available // (2 * count) for part in range(count)]


def _thumbnail(frame: UInt8[np.ndarray, "height width 3"]) -> str:
    from PIL import Image

    picture = Image.fromarray(frame)
    picture.thumbnail((4 * HEIGHT, HEIGHT))
    return base64.b64encode(encode_frame(np.asarray(picture), QUALITY)).decode()
