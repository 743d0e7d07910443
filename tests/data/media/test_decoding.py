"""Files as cameras, tools and accidents make them: frames as ffmpeg shows them, in its order, or a `ClipError`."""

import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smaug_core.data.media.frame_sampling import sample_frames
from smaug_core.data.media.video import read_frames
from smaug_core.errors import ClipError
from tests.data.media.made import COUNT, always, copied, every, numbered, numbers_in, patched, written

ALL = list(range(COUNT))
KEY_EVERY = 10


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """H.264 with B frames and a key frame every ten; an edit list hides the delay of its first frame."""
    return written(tmp_path_factory.mktemp("clips") / "clip.mp4", numbered())


@pytest.fixture(scope="module")
def open_gops(tmp_path_factory):
    """H.264 of which each key frame but the first is preceded on the screen by frames that need the ones before."""
    options = {"x264-params": "open-gop=1:keyint=10:min-keyint=1:bframes=3:b-adapt=0:scenecut=0"}
    return written(tmp_path_factory.mktemp("clips") / "open.mp4", numbered(), options=options)


def numbers(path: Path) -> list[int]:
    return numbers_in(read_frames(path, every))


def test_packets_without_a_time_stamp_come_in_the_order_of_the_screen(clip, tmp_path):
    raw = copied(clip, tmp_path / "raw.h264", container="h264")

    def two_seconds_earlier(packet):
        packet.pts, packet.dts = packet.pts - 40960, packet.dts - 40960

    negative = copied(
        clip, tmp_path / "early.mkv", change=two_seconds_earlier, options={"avoid_negative_ts": "disabled"}
    )
    for path in (raw, negative):
        with av.open(path) as container:
            assert any(packet.pts is None for packet in container.demux(video=0) if packet.size)
        assert numbers(path) == ALL
        assert numbers_in(read_frames(path, lambda available: sample_frames(available, 4))) == [4, 14, 24, 34]


@pytest.mark.parametrize("codec", ["libx264", "mpeg4", "mjpeg"])
def test_a_container_without_presentation_times_is_read_in_the_order_of_the_screen(tmp_path, codec):
    options = {} if codec == "mjpeg" else {"bf": "2"}
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    path = written(tmp_path / "clip.avi", numbered(), codec, options=options, pix_fmt=pix_fmt)
    assert numbers(path) == ALL
    assert numbers_in(read_frames(path, always(7, 8, 8, 31))) == [7, 8, 8, 31]


def test_times_that_are_those_of_decoding_are_not_believed(clip, tmp_path):
    def forget_presentation(packet):
        packet.pts = packet.dts

    path = copied(clip, tmp_path / "flat.mkv", change=forget_presentation)
    assert numbers(path) == ALL


@pytest.mark.parametrize("count", [1, COUNT - 3, COUNT + 60])
def test_the_count_in_a_header_is_not_believed(tmp_path, count):
    path = written(tmp_path / "clip.avi", numbered(), options={"bf": "2"})
    patched(path, b"avih", 24, count.to_bytes(4, "little"))
    patched(path, b"strh", 40, count.to_bytes(4, "little"))
    with av.open(path) as container:
        assert container.streams.video[0].frames == count
    assert numbers(path) == ALL


@pytest.mark.parametrize(("first", "length"), [(0, 1), (0, 15), (3, 20), (10, 10), (17, 23)])
def test_an_edit_list_decides_which_frames_are_shown(clip, tmp_path, first, length):
    """In this file a frame lasts 512 of 12800 units of a second, and the screen begins two of them late."""
    path = Path(copied(clip, tmp_path / "trimmed.mp4"))
    data = path.read_bytes()
    scale = int.from_bytes(data[(place := data.index(b"mvhd") + 16) : place + 4], "big")
    patched(path, b"elst", 12, (length * scale // 25).to_bytes(4, "big"))
    patched(path, b"elst", 16, (1024 + 512 * first).to_bytes(4, "big"))
    assert numbers(path) == ALL[first : first + length]
    assert numbers_in(read_frames(path, always(length - 1))) == [first + length - 1]


@pytest.mark.parametrize("first", [1, 7, 15])
def test_a_recording_that_begins_between_key_frames_starts_with_the_next_one(clip, tmp_path, first):
    key = -(-first // KEY_EVERY) * KEY_EVERY
    for name, container in (("late.mkv", None), ("late.ts", None), ("late.h264", "h264"), ("late.mp4", None)):
        path = copied(clip, tmp_path / name, keep=lambda place: place >= first, container=container)
        assert numbers(path) == ALL[key:], name


@pytest.mark.parametrize("kind", ["ts", "h264"])
def test_a_recording_may_begin_at_any_byte(tmp_path, kind):
    codec = "libx264" if kind == "h264" else "mpeg2video"
    options = {"g": "10", "bf": "2", "sc_threshold": "0" if kind == "h264" else "1000000000"}
    path = written(tmp_path / f"whole.{kind}", numbered(), codec, options=options)
    data = path.read_bytes()
    for share in (0.1, 0.4, 0.6):
        path.write_bytes(data[int(share * len(data)) :])
        found = numbers(path)
        assert len(found) >= 10 and found == ALL[-len(found) :], share


def test_frames_that_lead_the_first_key_frame_and_need_what_is_not_there_are_not_shown(open_gops, tmp_path):
    with av.open(open_gops) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    start = next(place for place, packet in enumerate(packets) if place and packet.is_keyframe)
    assert any(packet.pts < packets[start].pts for packet in packets[start:])
    for name in ("late.mkv", "late.mp4"):
        path = copied(open_gops, tmp_path / name, keep=lambda place: place >= start)
        found = numbers(path)
        assert found == ALL[-len(found) :] and 28 <= len(found) <= 31, name


def test_any_frame_after_an_open_key_frame_is_found_from_there(open_gops):
    for number in ALL:
        assert numbers_in(read_frames(open_gops, always(number))) == [number]


def test_key_frames_that_are_none_lead_to_no_wrong_frame(tmp_path):
    def claim(packet):
        packet.is_keyframe = True

    options = {"x265-params": "log-level=none:keyint=10", "preset": "ultrafast"}
    whole = written(tmp_path / "whole.mp4", numbered(), "libx265", options=options)
    path = copied(whole, tmp_path / "keys.mp4", change=claim)
    with av.open(path) as container:
        assert all(packet.is_keyframe for packet in container.demux(video=0) if packet.size)
    for number in (0, 5, 19, COUNT - 1):
        assert numbers_in(read_frames(path, always(number))) == [number]


def test_the_frames_of_a_gradual_refresh_are_found_without_key_frames(tmp_path):
    options = {"x264-params": "intra-refresh=1:keyint=10:bframes=0"}
    path = written(tmp_path / "refresh.mkv", numbered(), options=options)
    for number in (3, 14, 26, COUNT - 1):
        assert numbers_in(read_frames(path, always(number))) == [number]


@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9"])
def test_frames_that_a_codec_hides_are_not_counted(tmp_path, codec):
    options = {"g": "10", "lag-in-frames": "0", "auto-alt-ref": "0", "deadline": "realtime", "cpu-used": "8"}
    path = written(tmp_path / "clip.webm", numbered(), codec, options=options)
    with av.open(path) as container:
        packets = [(p.pos, p.size, p.is_keyframe) for p in container.demux(video=0) if p.size]
    key, size, _ = [packet for packet in packets if packet[2]][1]
    data = bytearray(path.read_bytes())
    frame = data.index(b"\x9d\x01\x2a", key) - 3 if codec == "libvpx" else data.index(b"\x49\x83\x42", key) - 1
    data[frame] &= ~0x10 if codec == "libvpx" else ~0x02  # the bit that says that it is shown
    path.write_bytes(data)
    assert numbers(path) == [number for number in ALL if number != KEY_EVERY]
    assert numbers_in(read_frames(path, always(KEY_EVERY))) == [KEY_EVERY + 1]


def test_frames_of_other_sizes_are_scaled_to_the_first(tmp_path):
    small, large = numbered()[:20], numbered()[20:].repeat(2, axis=1).repeat(2, axis=2)
    parts = [written(tmp_path / f"{part.shape[1]}.h264", part, container="h264") for part in (small, large)]
    path = tmp_path / "both.h264"
    for first, second in (parts, parts[::-1]):
        path.write_bytes(first.read_bytes() + second.read_bytes())
        for name in ("both.h264", "both.mkv"):
            if name != path.name:
                times = iter(range(0, 40 * COUNT, 40))
                copied(path, tmp_path / name, change=lambda packet, times=times: set_times(packet, next(times)))
            frames = read_frames(tmp_path / name, every)
            size = (32, 64) if first is parts[0] else (64, 128)
            assert frames.shape == (COUNT, *size, 3)
            shrunk = frames if size == (32, 64) else frames[:, ::2, ::2]
            assert numbers_in(shrunk) == (ALL if first is parts[0] else ALL[20:] + ALL[:20])
            alone = read_frames(tmp_path / name, always(30))
            assert np.array_equal(alone[0], frames[30])


def set_times(packet, time):
    packet.time_base, packet.pts, packet.dts = Fraction(1, 1000), time, time


def test_pixel_formats_may_change(tmp_path):
    parts = [
        written(tmp_path / f"{kind}.h264", numbered()[start : start + 20], container="h264", pix_fmt=kind)
        for kind, start in (("yuv420p", 0), ("yuv444p", 20))
    ]
    path = tmp_path / "both.h264"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    assert numbers(path) == ALL


def test_a_cover_picture_is_not_the_clip(clip, tmp_path):
    """Of two streams the one that ffmpeg takes: the larger of those that are no covers."""
    path = tmp_path / "two.mkv"
    with av.open(clip) as old, av.open(path, "w") as new:
        tiny = new.add_stream("mjpeg", rate=1)
        tiny.width, tiny.height, tiny.pix_fmt = 16, 16, "yuvj420p"
        stream = new.add_stream_from_template(old.streams.video[0])
        new.mux(tiny.encode(av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")))
        new.mux(tiny.encode(None))
        for packet in old.demux(video=0):
            if packet.size:
                packet.stream = stream
                new.mux(packet)
    assert numbers(path) == ALL


def test_tags_in_another_encoding_and_odd_names_do_not_matter(tmp_path, monkeypatch):
    path = tmp_path / "clip.avi"
    with av.open(path, "w") as target:
        target.metadata["title"] = "cafe"
        stream = target.add_stream("mpeg4", rate=25)
        stream.height, stream.width, stream.pix_fmt = 32, 64, "yuv420p"
        for picture in numbered(4):
            target.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        target.mux(stream.encode(None))
    patched(path, b"cafe", 3, b"\xe9")
    monkeypatch.chdir(tmp_path)
    for name in ("http:clip.avi", "%d%s.avi", "-i.avi", "pipe:0.avi"):
        os.link(path, tmp_path / name)
        assert numbers(Path(name)) == [0, 1, 2, 3]


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(ClipError, match=r"pipe\.mp4: not a readable video \(not a regular file\)"):
        read_frames(tmp_path / "pipe.mp4", every)


PEAK = """
import sys
from pathlib import Path
from smaug_core.data.media import decoding
from smaug_core.data.media.video import read_frames
decoding.HELD_BYTES = 2**20
def peak(path):
    read_frames(Path(path), lambda available: [0, available // 2, available - 1])
    # What getrusage says is never less than what the process had that started this one.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024
print(peak(sys.argv[1]), peak(sys.argv[2]))
"""


@pytest.mark.parametrize("kind", ["mkv", "ts"])
def test_memory_does_not_grow_with_the_length_of_a_file(tmp_path, kind):
    """One second again and again. Of mkv the packets are held up to a limit; of ts every frame is decoded."""
    noise = np.random.default_rng(0).integers(0, 256, (12, 240, 320, 3), dtype=np.uint8)
    one = written(tmp_path / f"one.{kind}", noise, options={"qp": "9", "bf": "0", "g": "12", "preset": "ultrafast"})
    with av.open(one) as old, av.open(tmp_path / f"long.{kind}", "w") as new:
        packets = [bytes(packet) for packet in old.demux(video=0) if packet.size]
        stream = new.add_stream_from_template(old.streams.video[0])
        for number in range(len(packets) * (32 * 2**20 // sum(map(len, packets)) + 1)):
            packet = av.Packet(packets[number % len(packets)])
            packet.stream, packet.time_base = stream, Fraction(1, 25)
            packet.pts = packet.dts = number
            packet.is_keyframe = number % len(packets) == 0
            new.mux(packet)
    assert (tmp_path / f"long.{kind}").stat().st_size > 32 * 2**20
    paths = [str(one), str(tmp_path / f"long.{kind}")]
    done = subprocess.run([sys.executable, "-c", PEAK, *paths], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert after - before < 10 * 2**20


@pytest.fixture(scope="module")
def odd_files(tmp_path_factory, clip):
    """One small file of each kind."""
    folder = tmp_path_factory.mktemp("odd")
    short = numbered(12)
    kinds = {"mp4": "libx264", "mkv": "libx265", "webm": "libvpx-vp9", "avi": "mpeg4", "ts": "mpeg2video", "gif": "gif"}
    formats = {"gif": "rgb8"}
    fast = {"libx265": {"x265-params": "log-level=none"}, "libvpx-vp9": {"cpu-used": "8", "deadline": "realtime"}}
    files = [
        written(folder / f"a.{kind}", short, codec, pix_fmt=formats.get(kind, "yuv420p"), options=fast.get(codec, {}))
        for kind, codec in kinds.items()
    ]
    return [*files, copied(clip, folder / "a.h264", container="h264")]


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_nothing_but_a_clip_error_leaves_the_reader(odd_files, tmp_path, data):
    """Files that are cut, overwritten and spliced anywhere."""
    original = data.draw(st.sampled_from(odd_files))
    content = bytearray(original.read_bytes())
    places = st.integers(0, len(content) - 1)
    for place, piece in data.draw(st.lists(st.tuples(places, st.binary(max_size=6)), max_size=12)):
        content[place : place + len(piece)] = piece
    if data.draw(st.booleans()):
        del content[data.draw(places) :]
    path = tmp_path / f"broken{original.suffix}"
    path.write_bytes(content)
    try:
        frames = read_frames(path, lambda available: [0, available // 2, available - 1] if available > 1 else [0])
    except ClipError as error:
        assert str(path) in str(error)
    else:
        assert frames.ndim == 4 and frames.dtype == np.uint8
