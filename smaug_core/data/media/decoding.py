"""Decoding of clips: the frames that a file shows, and the chosen ones of them.

Most files say in their packets which frame comes from which packet; of those only the stretches from a key frame to a
chosen frame are decoded. All others are decoded from the start, and the frames that the decoder returns are counted.
"""

import io
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any, TypeVar

from smaug_core.data.media.display import Size, shown_size
from smaug_core.data.media.location import MediaLocation
from smaug_core.errors import ClipError, MissingClipError

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer

T = TypeVar("T")
Choose = Callable[[int], Sequence[int]]
"""Maps the number of frames of a clip to the frames wanted: ascending, repeats allowed. It may be called twice."""
Convert = Callable[["VideoFrame", Size], T]
"""Converts a decoded frame, given the size at which the clip is shown, to what is kept of it."""

INDEXED = frozenset({"mov", "matroska"})
"""Containers whose packets hold presentation times."""
ONE_TO_ONE = frozenset({"h264", "hevc", "av1", "vp8", "vp9"})
"""Codecs of which each packet that shows a frame shows one."""
HELD_BYTES = 32 * 2**20
"""Packets that are held between the scan of all packets and decoding; of a larger file they are read again."""
LIBAV_RAISES = (OSError, ValueError, LookupError, ArithmeticError, MemoryError, RuntimeError)
"""Errors that PyAV raises for damaged files, beside its own."""

END = (None, None)
"""Times of the empty packet that PyAV hands out after the last one."""


class _DoubtError(Exception):
    """The decoder did not return what the packets announced."""


def decode(media: MediaLocation, choose: Choose, convert: Convert[T]) -> tuple[list[int], dict[int, T]]:
    """Choose among the frames that a clip shows, and decode and convert them.

    Returns:
        The choice, and the converted frames by its indices.

    Raises:
        ClipError: the file is missing, damaged, truncated, or holds no frames.
        ValueError: the choice is empty, not ascending, or out of range.
    """
    with _named(media):
        container = _opened(media)
    with container:
        with _named(media):
            packets = _look(media, container)
        if packets.is_plain:
            wanted = checked(choose, len(packets.shown))
            try:
                with _named(media):
                    return wanted, _decode_stretches(media, packets, wanted, convert)
            except _DoubtError:
                pass
    # The number of packets is a guess that mostly spares decoding twice.
    wanted = list(choose(packets.count))
    with _named(media):
        count, frames = _decode_all(media, wanted, convert)
    if count != packets.count:
        wanted = checked(choose, count)
        with _named(media):
            _, frames = _decode_all(media, wanted, convert)
    return checked(lambda _: wanted, count), frames


def time_base(media: MediaLocation) -> Fraction:
    """Seconds of one tick of a clip's times.

    Raises:
        ClipError: the file is missing or damaged.
    """
    with _named(media), _opened(media) as container:
        return Fraction(_stream(media, container).time_base)


def checked(choose: Choose, available: int) -> list[int]:
    """The choice among `available` frames.

    Raises:
        ValueError: it is empty, not ascending, or out of range.
    """
    wanted = list(choose(available))
    if not wanted or wanted != sorted(wanted) or wanted[0] < 0 or wanted[-1] >= available:
        raise ValueError(f"frames must be ascending within [0, {available - 1}], got {wanted}")
    return wanted


@contextmanager
def _named(media: MediaLocation) -> Iterator[None]:
    """Turn every error of libav into one that names the file."""
    import av

    try:
        yield
    except FileNotFoundError as error:
        raise MissingClipError(f"{media}: no such file") from error
    except av.FFmpegError as error:
        raise ClipError(f"{media}: not a readable video ({error.strerror})") from error
    except LIBAV_RAISES as error:
        raise ClipError(f"{media}: not a readable video ({str(error) or type(error).__name__})") from error


def _opened(media: MediaLocation) -> "InputContainer":
    import av

    if media.length is not None:
        return av.open(io.BytesIO(media.read()), metadata_errors="replace")
    if not media.path.is_file() and media.path.exists():  # a pipe would be waited for
        raise ClipError(f"{media}: not a readable video (not a regular file)")
    # With its protocol, for a colon in a name looks like one; tags may be in any encoding, and are not read.
    return av.open(f"file:{media.path}", metadata_errors="replace")


def _stream(media: MediaLocation, container: "InputContainer") -> Any:
    """Return the stream that players show: not a cover picture."""
    from av.stream import Disposition

    stream: Any = container.streams.best("video")
    if stream is None or stream.codec_context is None or stream.disposition & Disposition.attached_pic:
        raise ClipError(f"{media}: holds no video stream that can be decoded")
    # More threads cost more to start than a clip of a few pictures takes to decode.
    stream.codec_context.thread_count = 1
    return stream


@dataclass(slots=True)
class _Packets:
    """Facts of a stream's packets, by their position in the file, which is their position in decoding."""

    stream: Any
    size: Size
    """Height and width of the frames, as the file says."""
    is_plain: bool
    """Whether each shows one frame at a time of its own, and key frames are true starts."""
    count: int = 0
    """Packets whose frame is to be shown."""
    times: "array[int]" = field(default_factory=lambda: array("q"))
    """Presentation times by place, while `is_plain`."""
    shown: list[int] = field(default_factory=list)
    """Times of the frames that are shown, ascending, while `is_plain`."""
    keys: list[tuple[int, int]] = field(default_factory=list)
    """Time and place of the key frames, while `is_plain`."""
    held: list[Any] | None = None
    """The packets themselves; None if they are not needed again, or too large."""

    def add(self, packet: Any, codec: str) -> None:
        """Record the next packet."""
        self.count += not packet.is_discard
        if not self.is_plain:
            return
        time = packet.pts
        if time is None or packet.is_corrupt or _is_odd(packet, codec):
            self.is_plain, self.held = False, None
            return
        if packet.is_keyframe:
            self.keys.append((time, len(self.times)))
        self.times.append(time)
        if not packet.is_discard:
            self.shown.append(time)

    def finish(self, reorders: bool) -> None:
        """Decide `is_plain` from all packets, once all are read."""
        self.shown.sort()
        ascending = all(a < b for a, b in zip(self.times, self.times[1:], strict=False))
        self.is_plain = (
            self.is_plain
            and bool(self.shown and self.keys)
            and self.keys[0][1] == 0
            and self.keys[0][0] <= self.shown[0]  # frames before the first key frame may not be decodable
            and self.keys == sorted(self.keys)
            and (ascending or len(set(self.times)) == len(self.times))
            and not (ascending and reorders)  # such times are those of decoding
        )


def _look(media: MediaLocation, container: "InputContainer") -> _Packets:
    """Read every packet, without decoding any."""
    stream = _stream(media, container)
    codec = stream.codec_context
    name = codec.codec.canonical_name
    kinds = container.format.name.split(",")
    is_plain = not INDEXED.isdisjoint(kinds) and name in ONE_TO_ONE
    packets = _Packets(stream, (codec.height, codec.width), is_plain, held=[] if is_plain else None)
    whole, held_bytes = 0, 0
    for packet in container.demux(stream):
        whole += (packet.size > 0 or (packet.pts, packet.dts) != END) and not packet.is_corrupt
        if not packet.size:
            continue
        packets.add(packet, name)
        held_bytes += packet.size
        if packets.held is not None:
            packets.held.append(packet)
            if held_bytes > HELD_BYTES:
                packets.held = None
    if "mov" in kinds and whole < len(stream.index_entries):
        listed = len(stream.index_entries)
        raise ClipError(f"{media}: truncated, holds {whole} whole frames where its index lists {listed}")
    packets.finish(codec.has_b_frames)
    return packets


def _is_odd(packet: Any, codec: str) -> bool:
    """Return whether a packet shows nothing, or changes the decoder's state for all that follow."""
    if any(data.data_type == "new_extradata" for data in packet.iter_sidedata()):
        return True
    if codec == "vp8":
        return not memoryview(packet)[0] & 0x10
    if codec == "vp9":
        data = memoryview(packet)
        first, holds_several = data[0], data[-1] & 0xE0 == 0xC0
        if first & 0x30 == 0x30:  # profile 3 has a bit more
            first = first << 1
        return not holds_several and not first & 0x0A  # shows neither an earlier frame nor this one
    return False


def _decode_stretches(
    media: MediaLocation, packets: _Packets, wanted: Sequence[int], convert: Convert[T]
) -> dict[int, T]:
    """Decode each chosen frame from the key frame before it.

    Raises:
        _DoubtError: a frame is damaged or missing, or comes in another order or size than the file says.
    """
    if packets.held is not None:
        return _follow(packets, packets.stream.codec_context, packets.held, wanted, convert)
    with _opened(media) as container:
        stream = _stream(media, container)
        again = (packet for packet in container.demux(stream) if packet.size)
        return _follow(packets, stream.codec_context, again, wanted, convert)


def _follow(
    packets: _Packets, codec: Any, again: Iterable[Any], wanted: Sequence[int], convert: Convert[T]
) -> dict[int, T]:
    chosen, kept, size = set(wanted), {}, None
    rest, place, start, coming = iter(again), 0, packets.keys[0][0], 0
    for index in dict.fromkeys(wanted):
        key_time, key = packets.keys[bisect_right(packets.keys, (packets.shown[index], len(packets.times))) - 1]
        if key > place:
            codec.flush_buffers()
            for _ in range(key - place):
                next(rest)
            place, start, coming = key, key_time, bisect_left(packets.shown, key_time)
        while index not in kept:
            if place > len(packets.times):
                raise _DoubtError
            # Past the last packet, None makes the decoder return the frames it holds back.
            for frame in codec.decode(next(rest, None)):
                if frame.pts is None or frame.pts < start:  # it may lack what it builds on, and is not wanted
                    continue
                _check(frame, packets, coming, start)
                if coming in chosen:
                    size = size or shown_size(frame)
                    kept[coming] = convert(frame, size)
                coming += 1
            place += 1
    return kept


def _check(frame: "VideoFrame", packets: _Packets, coming: int, start: int) -> None:
    as_announced = coming < len(packets.shown) and frame.pts == packets.shown[coming]
    true_start = frame.pts != start or frame.key_frame
    if frame.is_corrupt or not as_announced or not true_start or (frame.height, frame.width) != packets.size:
        raise _DoubtError


def _decode_all(media: MediaLocation, wanted: Iterable[int], convert: Convert[T]) -> tuple[int, dict[int, T]]:
    """Decode from the start; return the number of frames, and the chosen ones if there are as many.

    Packets before the first frame that cannot be decoded are skipped, since a recording may begin anywhere.
    """
    chosen, kept, count = set(wanted), {}, 0
    size: Size | None = None
    with _opened(media) as container:
        stream = _stream(media, container)
        for packet in container.demux(stream):
            if count and packet.is_corrupt:
                raise ClipError(f"{media}: damaged after frame {count - 1}")
            if not packet.size and (packet.pts, packet.dts) != END:
                continue  # else an empty one would end the decoding
            for frame in _decoded(stream.codec_context, packet, is_begun=count > 0):
                size = size or shown_size(frame)
                if count in chosen:
                    if frame.is_corrupt:
                        raise ClipError(f"{media}: damaged, frame {count} is incomplete")
                    kept[count] = convert(frame, size)
                count += 1
    if not count:
        raise ClipError(f"{media}: holds no frames")
    return count, kept


def _decoded(codec: Any, packet: Any, *, is_begun: bool) -> list["VideoFrame"]:
    from av import FFmpegError

    try:
        frames: list[VideoFrame] = codec.decode(packet if packet.size else None)
    except FFmpegError:
        if is_begun:
            raise
        return []
    return frames
