"""One rank of a training that only reads: writes the digest and the media of each of its batches to a file."""

import hashlib
import sys
import time
from dataclasses import fields
from pathlib import Path

from smaug_core.data.batch import Batch
from smaug_core.data.batches import TrainingBatches
from smaug_core.data.corpus import Corpus
from smaug_core.data.dataset_info import read_info
from smaug_core.data.tokenizer import load_tokenizer
from smaug_core.distributed import World
from tests.data.test_batches import RECIPE, replace


def batches_of(root: Path, world: World) -> TrainingBatches:
    """Batches of the data set `made` under a data root."""
    corpus = Corpus([read_info(root, "made").open("train")])
    recipe = replace(RECIPE, batch_size=20)
    return TrainingBatches(corpus, load_tokenizer("moving_shapes"), recipe, seed=0, world=world)


def described(batch: Batch) -> str:
    """Digest of all that a batch holds, and the numbers of its media."""
    digest = hashlib.sha256()
    for field in fields(batch):
        tensor = getattr(batch, field.name)
        digest.update(field.name.encode() if tensor is None else tensor.numpy().tobytes())
    return f"{digest.hexdigest()} {','.join(map(str, batch.media.tolist()))}"


def main() -> None:
    """Read on from the step after the last whole line of the file; at a given step, wait to be killed."""
    root, rank, workers, file = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    done = file.read_text().splitlines(keepends=True) if file.exists() else []
    done = [line for line in done if line.endswith("\n")]
    file.write_text("".join(done))
    batches = batches_of(root, World(rank=rank, size=2))
    held_at = int(sys.argv[5]) if len(sys.argv) > 5 else None
    with file.open("a", buffering=1) as lines:
        for step, read in enumerate(batches.loader(len(done), batches.steps_per_epoch, workers=workers), len(done)):
            if step == held_at:
                time.sleep(3600)
            lines.write(described(batches.use(read)) + "\n")


if __name__ == "__main__":
    main()
