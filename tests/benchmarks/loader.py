"""Times the reading of training samples: stills and clips of four frames, by files, records and shards.

    python -m tests.benchmarks.loader --samples 256 --repeats 5

The media are made here: textured pictures of 341x256, JPEG quality 90, and clips of 10 s. Each reader has one thread
and works in turn with the others, in this process: CPU milliseconds a sample. Beside ours, on the same files:
torchvision's transforms (v2) with Pillow decoding, and the webdataset library with the same decoder and transforms.
Then ours with one and two loader processes: samples a second, and CPU time a sample. Prints JSON.
"""

import argparse
import io
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from smaug_core.data.batch_reader import BatchRecipe
from smaug_core.data.batches import TrainingBatches
from smaug_core.data.corpus import Corpus
from smaug_core.data.dataset_info import read_info
from smaug_core.data.media.frame_sampling import sample_frames
from smaug_core.data.media.location import MediaLocation, located
from smaug_core.data.media.video import read_frames, write_clip
from smaug_core.data.prepare.conversion import prepare_split
from smaug_core.data.prepare.source import PrepareRequest, resolve
from smaug_core.data.prepare.transcode import Frames
from smaug_core.data.tokenizer import load_tokenizer
from smaug_core.data.transforms import CLIP
from smaug_core.torchvision_on_cpu import make_importable
from tests.data.sources.made_shards import write_tar

HEIGHT, WIDTH, SIZE, QUALITY = 256, 341, 224, 90
FPS, SECONDS = 24, 10
CLIPS = 8
"""Different clips; captions share them."""
WARM_UP = 1


def textured(count: int, seed: int) -> np.ndarray:
    """Pictures with detail at every scale, as photographs have."""
    draws = np.random.default_rng(seed)
    made = np.zeros((count, HEIGHT, WIDTH, 3))
    for size in (4, 16, 64):
        rough = draws.uniform(0, 255, (count, HEIGHT // size + 1, WIDTH // size + 1, 3))
        made += rough.repeat(size, 1).repeat(size, 2)[:, :HEIGHT, :WIDTH]
    return (made / 3).astype(np.uint8)


def jpeg(picture: np.ndarray) -> bytes:
    """A picture as JPEG."""
    kept = io.BytesIO()
    Image.fromarray(picture).save(kept, "JPEG", quality=QUALITY)
    return kept.getvalue()


def make_stills(folder: Path, num: int) -> Path:
    """Shards of stills, as img2dataset writes them."""
    pictures = [jpeg(picture) for picture in textured(min(num, 64), 0)]
    members = [
        member
        for n in range(num)
        for member in ((f"{n:09d}.jpg", pictures[n % len(pictures)]), (f"{n:09d}.txt", b"a red square moves left"))
    ]
    write_tar(folder / "00000.tar", members)
    return folder


def make_clips(folder: Path, num: int) -> Path:
    """An annotation file of mp4 clips of ten seconds that pan over a picture."""
    (folder / "media").mkdir(parents=True)
    (folder / "annotations").mkdir()
    for number, picture in enumerate(textured(CLIPS, 1)):
        frames = np.stack([np.roll(picture[:, :340], n, axis=1) for n in range(FPS * SECONDS)])
        write_clip(folder / "media" / f"{number}.mp4", frames, FPS)
    rows = [{"video": f"{n % CLIPS}.mp4", "caption": "a red square moves left"} for n in range(num)]
    (folder / "annotations" / "train.json").write_text(json.dumps(rows))
    sparse = np.stack([np.roll(picture[:, :340], FPS // 2 * n, axis=1) for n in range(2 * SECONDS)])
    write_clip(folder / "sparse.mp4", sparse, 2)
    return folder / "annotations" / "train.json"


def batches_of(root: Path, name: str, source: Path, frames: Frames, num_frames: int) -> TrainingBatches:
    """Batches of a data set that is prepared from `source`."""
    prepare_split(*resolve(PrepareRequest(name, source, frames=frames), root))
    recipe = BatchRecipe(
        batch_size=32,
        frames=num_frames,
        image_size=SIZE,
        colours=CLIP,
        num_patches=196,
        text_length=32,
        mask_ratio=0.65,
        mlm_ratio=0.15,
        max_unreadable=0.0,
    )
    return TrainingBatches(
        Corpus([read_info(root, name).open("train")]), load_tokenizer("moving_shapes"), recipe, seed=0
    )


def ours(batches: TrainingBatches) -> Iterator[int]:
    """Samples of each batch."""
    for read in batches.loader(0, batches.steps_per_epoch):
        yield len(batches.use(read).images)


def torchvision_transforms() -> Callable[[Image.Image], torch.Tensor]:
    """The same crop, flip and normalisation by torchvision."""
    make_importable()
    from torchvision.transforms import InterpolationMode, v2

    return v2.Compose(
        [
            v2.PILToTensor(),
            v2.RandomResizedCrop(SIZE, scale=(0.5, 1.0), interpolation=InterpolationMode.BICUBIC, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(CLIP.mean, CLIP.std),
        ]
    )


def torchvision_reader(batches: TrainingBatches) -> Iterator[int]:
    """Stills by Pillow and torchvision, in batches of 32."""
    transform = torchvision_transforms()
    for rows in batches.epoch_order(0):
        pictures = [
            transform(Image.open(io.BytesIO(batches.samples[row].media.read())).convert("RGB")) for row in rows.tolist()
        ]
        yield len(torch.stack(pictures))


def webdataset_reader(shard: Path) -> Iterator[int]:
    """Stills by the webdataset library, in batches of 32."""
    import webdataset

    transform = torchvision_transforms()
    stream = webdataset.WebDataset(str(shard), shardshuffle=False).decode("pil").to_tuple("jpg", "txt")
    for pictures, _ in stream.map_tuple(transform, str).batched(32):
        yield len(pictures)


def cpu_ms(read: Callable[[], Iterator[int]]) -> float:
    """CPU milliseconds of this process for a sample."""
    began = time.process_time()
    samples = sum(read())
    return 1000 * (time.process_time() - began) / samples


def in_turn(readers: dict[str, Callable[[], Iterator[int]]], repeats: int) -> dict[str, Any]:
    """Median CPU time a sample of each reader, and how ours compares with it, pair by pair."""
    taken: dict[str, list[float]] = {name: [] for name in readers}
    for number in range(WARM_UP + repeats):
        for name in list(readers)[:: 1 if number % 2 else -1]:
            spent = cpu_ms(readers[name])
            if number >= WARM_UP:
                taken[name].append(spent)
    mine = taken[next(iter(readers))]
    return {
        name: {
            "cpu_ms": round(statistics.median(spent), 3),
            "samples_per_core_second": round(1000 / statistics.median(spent)),
            "ours_relative": round(statistics.median(a / b for a, b in zip(mine, spent, strict=True)), 3),
        }
        for name, spent in taken.items()
    }


def formats_of(batches: dict[str, TrainingBatches], sparse: Path, repeats: int) -> dict[str, Any]:
    """Bytes of a clip of ten seconds in each format, and CPU milliseconds to decode 1, 4, 8 and 12 of its frames."""
    media = {kind: each.samples[0].media for kind, each in batches.items()} | {"2 fps, one key frame": located(sparse)}
    found: dict[str, Any] = {kind: {"bytes": location.size()} for kind, location in media.items()}
    for num in (1, 4, 8, 12):
        readers = {kind: partial(decode_once, location, num) for kind, location in media.items()}
        for kind, taken in in_turn(readers, repeats).items():
            found[kind][f"cpu_ms of {num}"] = taken["cpu_ms"]
    return found


def decode_once(location: MediaLocation, num: int) -> Iterator[int]:
    """Decode some frames from the middles of equal parts."""
    for _ in range(8):
        read_frames(location, lambda available: sample_frames(available, num))
        yield 1


def with_workers(batches: TrainingBatches, repeats: int) -> dict[str, Any]:
    """Samples a second and CPU time a sample with one and with two loader processes, in turn."""
    rates: dict[int, list[float]] = {1: [], 2: []}
    spent: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(repeats):
        for workers in rates:
            loader = batches.loader(0, batches.steps_per_epoch, workers=workers)
            began = time.monotonic()
            samples = sum(len(batches.use(read).images) for read in loader)
            rates[workers].append(samples / (time.monotonic() - began))
            spent[workers].append(1000 * loader.used_cpu_s / samples)
    ratio = statistics.median(two / one for one, two in zip(spent[1], spent[2], strict=True))
    return {
        "samples_per_second": {str(n): round(statistics.median(found)) for n, found in rates.items()},
        "cpu_ms": {str(n): round(statistics.median(found), 3) for n, found in spent.items()},
        "cpu_of_two_relative": round(ratio, 3),
    }


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shards = make_stills(folder / "stills", asked.samples)
        clips = make_clips(folder / "clips", asked.samples)
        stills = batches_of(folder, "made/stills", shards, "copy", 1)
        kinds: dict[str, Frames] = {"mp4": "copy", "intra": "intra", "record": "jpeg"}
        by_kind = {kind: batches_of(folder, f"made/{kind}", clips, frames, 4) for kind, frames in kinds.items()}
        found = {
            "samples": asked.samples,
            "repeats": asked.repeats,
            "stills": in_turn(
                {
                    "ours": lambda: ours(stills),
                    "torchvision": lambda: torchvision_reader(stills),
                    "webdataset": lambda: webdataset_reader(shards / "00000.tar"),
                },
                asked.repeats,
            ),
            "four frames of a clip": in_turn(
                {kind: lambda kind=kind: ours(by_kind[kind]) for kind in ("record", "intra", "mp4")}, asked.repeats
            ),
            "formats of a clip": formats_of(by_kind, folder / "clips" / "sparse.mp4", asked.repeats),
            "loader processes, stills": with_workers(stills, asked.repeats),
            "loader processes, records": with_workers(by_kind["record"], asked.repeats),
        }
    sys.stdout.write(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
