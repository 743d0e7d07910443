"""Decoding: exactly the frames asked for, no more work than needed, and an error that names whatever is damaged."""

import random
import shutil
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from smaug_core.data.media.video import MAX_KEYFRAME_EVERY, decoded_digest, read_frames, write_clip
from smaug_core.errors import ClipError
from tests.data.media.made import COUNT, always, every, numbered, numbers_in

KEYFRAME_EVERY = 8


def packets_of(path: Path) -> list[tuple[int, int, bool]]:
    """Place and size in the file, and whether it is a key frame, of each packet."""
    with av.open(path) as container:
        return [(p.pos, p.size, p.is_keyframe) for p in container.demux(video=0) if p.size]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clips") / "numbered.mp4"
    write_clip(path, numbered(), 8, keyframe_every=KEYFRAME_EVERY)
    return path


@pytest.fixture
def copy(clip, tmp_path):
    return Path(shutil.copy(clip, tmp_path / "copied.mp4"))


def test_all_frames_come_back_in_order_and_close_to_what_was_written(clip):
    frames = read_frames(clip, every)
    assert numbers_in(frames) == list(range(COUNT))
    assert np.abs(frames.astype(int) - numbered()).mean() < 4


@settings(deadline=None, max_examples=150)
@given(wanted=st.lists(st.integers(0, COUNT - 1), min_size=1, max_size=20).map(sorted))
def test_any_choice_of_frames_is_met_exactly(clip, wanted):
    assert numbers_in(read_frames(clip, always(*wanted))) == wanted


def test_a_frame_is_the_same_whatever_else_is_read(clip):
    together = read_frames(clip, every)
    for number in (0, 7, 8, 21, COUNT - 1):
        assert np.array_equal(read_frames(clip, always(number))[0], together[number])


def test_the_choice_is_told_how_many_frames_there_are(clip):
    told = []
    read_frames(clip, lambda available: told.append(available) or [0])
    assert told == [COUNT]


@pytest.mark.parametrize("wanted", [[], [3, 2], [-1], [COUNT], [0, COUNT]])
def test_frames_that_are_out_of_order_or_of_range_are_refused(clip, wanted):
    with pytest.raises(ValueError, match=rf"ascending within \[0, {COUNT - 1}\]"):
        read_frames(clip, always(*wanted))


@pytest.mark.parametrize("every", [1, 5, MAX_KEYFRAME_EVERY])
def test_key_frames_come_as_often_as_asked(tmp_path, every):
    write_clip(tmp_path / "clip.mp4", numbered(), 8, keyframe_every=every)
    keys = [place for place, (_, _, key) in enumerate(packets_of(tmp_path / "clip.mp4")) if key]
    assert keys == list(range(0, COUNT, every))


@pytest.mark.parametrize("every", [0, MAX_KEYFRAME_EVERY + 1])
def test_key_frames_further_apart_than_seeking_bears_are_refused(tmp_path, every):
    with pytest.raises(ValueError, match=rf"keyframe_every must be in \[1, 30\], got {every}"):
        write_clip(tmp_path / "clip.mp4", numbered(), 8, keyframe_every=every)


def test_a_clip_is_h264_at_the_rate_and_size_asked_for(clip):
    with av.open(clip) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt, stream.average_rate) == ("h264", "yuv420p", 8)
        assert (stream.width, stream.height, stream.frames) == (64, 32, COUNT)


def test_frames_the_players_show_in_another_order_than_they_are_stored_in_are_met(clip):
    with av.open(clip) as container:
        times = [packet.pts for packet in container.demux(video=0) if packet.size]
    assert times != sorted(times)  # or the tests above say nothing about such clips


def test_only_the_needed_stretches_are_decoded(copy):
    damage(copy, range(KEYFRAME_EVERY + 1, 2 * KEYFRAME_EVERY))
    before, after = KEYFRAME_EVERY // 2, 2 * KEYFRAME_EVERY
    assert numbers_in(read_frames(copy, always(0, before, after, COUNT - 1))) == [0, before, after, COUNT - 1]
    with pytest.raises(ClipError, match=r"copied\.mp4"):
        read_frames(copy, always(0, after - 1, COUNT - 1))


def damage(path: Path, packets: range) -> None:
    """Overwrite what some packets hold."""
    found = packets_of(path)
    data = bytearray(path.read_bytes())
    for place in packets:
        start, size, _ = found[place]
        data[start : start + size] = bytes(size)
    path.write_bytes(data)


def test_a_damaged_frame_is_said_and_never_filled_in(clip, copy):
    # Most damage makes the decoder patch the frame up from its neighbours, and go on.
    data, packets, rng = clip.read_bytes(), packets_of(clip), random.Random(0)
    caught, silent = 0, 0
    for _ in range(60):
        start, size, _ = packets[rng.randrange(COUNT)]
        broken = bytearray(data)
        broken[start + size // 4 : start + size // 2] = rng.randbytes(size // 2 - size // 4)
        copy.write_bytes(broken)
        try:
            silent += numbers_in(read_frames(copy, every)) != list(range(COUNT))
        except ClipError as error:
            assert "copied.mp4" in str(error)
            caught += 1
    assert caught > 45
    assert silent < 10  # what still parses as H.264 cannot be told from a picture


def test_a_missing_file_is_named(tmp_path):
    for name in ("gone.mp4", "gone.png"):
        with pytest.raises(ClipError, match=f"{name}: no such file"):
            read_frames(tmp_path / name, every)


@pytest.mark.parametrize("content", [b"", b"not a video", bytes(5000)], ids=["empty", "text", "zeros"])
def test_a_file_that_is_no_video_and_no_picture_is_named(tmp_path, content):
    for name, what in (("clip.mp4", "video"), ("still.png", "picture"), ("still.jpg", "picture")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ClipError, match=f"{name}: not a readable {what}"):
            read_frames(tmp_path / name, every)


def test_a_folder_in_the_place_of_a_clip_is_named(tmp_path):
    (tmp_path / "clip.mp4").mkdir()
    with pytest.raises(ClipError, match=r"clip\.mp4"):
        read_frames(tmp_path / "clip.mp4", every)


@pytest.mark.parametrize("share", [0.05, 0.4, 0.95])
def test_a_clip_whose_end_is_missing_is_named(clip, copy, share):
    data = clip.read_bytes()
    copy.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ClipError, match=r"copied\.mp4"):
        read_frames(copy, always(0))


def test_a_download_that_broke_off_is_called_truncated(clip, tmp_path):
    path = tmp_path / "streamed.mp4"
    with av.open(clip) as source, av.open(path, "w", options={"movflags": "faststart"}) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    whole = path.read_bytes()
    assert numbers_in(read_frames(path, every)) == list(range(COUNT))
    path.write_bytes(whole[: int(0.8 * len(whole))])
    with pytest.raises(ClipError, match=rf"streamed.mp4: truncated, holds \d+ whole frames .* lists {COUNT}"):
        read_frames(path, always(0))


def test_sound_alone_is_no_clip(tmp_path):
    with av.open(tmp_path / "sound.mp4", "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
        frame.rate = 8000
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)
    with pytest.raises(ClipError, match=r"sound\.mp4: holds no video stream"):
        read_frames(tmp_path / "sound.mp4", every)


def test_a_picture_is_a_clip_of_one_frame(tmp_path):
    picture = numbered(6)[5]
    Image.fromarray(picture).save(tmp_path / "still.png")
    told = []
    frames = read_frames(tmp_path / "still.png", lambda available: told.append(available) or [0, 0])
    assert told == [1] and np.array_equal(frames, np.stack([picture, picture]))
    with pytest.raises(ValueError, match=r"ascending within \[0, 0\]"):
        read_frames(tmp_path / "still.png", always(1))


def test_half_a_picture_is_named(tmp_path):
    path = tmp_path / "still.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(ClipError, match=r"still\.png: not a readable picture"):
        read_frames(path, always(0))


def test_the_same_frames_give_the_same_bytes_in_any_process(clip, tmp_path):
    path = tmp_path / "again.mp4"
    code = (
        "import sys; from pathlib import Path; from tests.data.media.test_video import numbered, write_clip;"
        f"write_clip(Path(sys.argv[1]), numbered(), 8, keyframe_every={KEYFRAME_EVERY})"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)
    assert path.read_bytes() == clip.read_bytes()


def test_the_digest_of_frames_changes_with_any_frame_and_with_their_order(clip, tmp_path):
    frames = numbered()
    frames[-1] = frames[0]
    write_clip(tmp_path / "other.mp4", frames, 8, keyframe_every=KEYFRAME_EVERY)
    other = tmp_path / "other.mp4"
    assert decoded_digest([clip]) != decoded_digest([other])
    assert decoded_digest([clip, other]) != decoded_digest([other, clip])


def test_a_clip_that_cannot_be_written_is_an_error_that_names_it(tmp_path):
    with pytest.raises(OSError, match="nowhere"):
        write_clip(tmp_path / "nowhere" / "clip.mp4", numbered(2), 8)
