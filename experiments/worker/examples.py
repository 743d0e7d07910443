"""Example pictures of a trained model, drawn by the worker when a pre-training ends, and by commands."""

import math
import os
import shutil
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.stages.kinds import PRETRAININGS
from experiments.stages.stage import ENTRY
from experiments.store.documents import ALONE, ANY, STAGE, StageDocument, read_document, unwritable, write_json
from experiments.store.examples import FOLDER, LIST, Example, Gallery, Kind
from experiments.worker.reporter import print_error
from smaug_core.config import DataConfig
from smaug_core.errors import ClipError, SmaugError
from smaug_core.settings import from_settings

if TYPE_CHECKING:
    from smaug_core.data.manifest import Sample
    from smaug_core.retriever import Retriever

NUM = 6
"""Number of pictures of one kind; if a stage has both kinds, two less of each."""
MOST_BYTES = 80_000
"""Largest size of a picture; at tiny scale, whose records are committed, one has 3 to 8 kB."""
LIMIT_S = 60.0
"""Time after which a worker begins no further picture."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """A trained model, and the few clips or pictures that show what it does."""

    loaded: "Retriever"
    device: str
    text_length: int
    """Caption tokens kept."""
    mask_ratio: float
    """Of its training; 0 where nothing was masked."""
    source: str
    split: str
    samples: "Sequence[Sample]"

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """Kinds of pictures that can be drawn of it."""
        from smaug_core.visualization.examples import check_reconstructs, check_selects

        found: list[Kind] = []
        with suppress(SmaugError):
            check_reconstructs(self.loaded.model, self.mask_ratio)
            found.append("reconstruction")
        with suppress(SmaugError):
            check_selects(self.loaded.model)
            found.append("selection")
        return tuple(found)

    def example(self, kind: Kind, number: int) -> Example:
        """Draw the picture of one kind of an sample; `number` counts from 1.

        Raises:
            SmaugError: the model does nothing of the kind.
            ClipError: the sample cannot be read.
        """
        sample = self.samples[number - 1]
        return (self._reconstruction if kind == "reconstruction" else self._selection)(sample, number)

    def _reconstruction(self, sample: "Sample", number: int) -> Example:
        from smaug_core.visualization.examples import reconstruct
        from smaug_core.visualization.image_strip import png, strip

        model, tokenizer, ratio = self.loaded.model, self.loaded.tokenizer, self.mask_ratio
        made = reconstruct(model, tokenizer, sample, mask_ratio=ratio, text_length=self.text_length, device=self.device)
        content, width, height = png(strip([made.original, made.masked, made.restored]), MOST_BYTES)
        alt = (
            f"Three times one frame of {self._description(sample)}: as it is;"
            f" with {100 * ratio:.4g} % of its patches hidden, in grey;"
            " and with the hidden patches as the model predicts them."
        )
        return Example.of_picture(
            content,
            file=f"reconstruction-{number}.png",
            kind="reconstruction",
            caption=sample.caption,
            alt=alt,
            source=self.source,
            split=self.split,
            width=width,
            height=height,
            mask_ratio=ratio,
        )

    def _selection(self, sample: "Sample", number: int) -> Example:
        from smaug_core.visualization.examples import choose
        from smaug_core.visualization.image_strip import png, strip

        made = choose(
            self.loaded.model, self.loaded.tokenizer, sample, text_length=self.text_length, device=self.device
        )
        content, width, height = png(strip(list(made.frames), made.chosen), MOST_BYTES)
        selected = _numbers(made.chosen)
        relevant = None if made.relevant is None else _numbers(made.relevant)
        alt = f"{len(made.chosen)} frames of {self._description(sample)}. Selected, with a thick border and a tick: "
        alt += f"{_frame_list(selected)}."
        if relevant is not None:
            alt += f" What the caption names can be seen in {_frame_list(relevant)}."
        return Example.of_picture(
            content,
            file=f"selection-{number}.png",
            kind="selection",
            caption=sample.caption,
            alt=alt,
            source=self.source,
            split=self.split,
            width=width,
            height=height,
            selected=selected,
            relevant=relevant,
            scores=[round(float(score), 4) for score in made.scores],
        )

    def _description(self, sample: "Sample") -> str:
        what = "picture" if sample.is_image else "clip"
        split = "training" if self.split == "train" else self.split
        return f"a {split} {what} of {self.source}, “{sample.caption}”"


def leave_pictures(stage: StageDocument, directory: Path, *, data_root: Path, device: str) -> None:
    """Write the folder `examples` of a stage, before its result is published.

    No stage fails for its pictures: errors are recorded in `examples/examples.json`, and printed to stderr,
    which is the log. Stages of other kinds, and stand-ins for stages, have none.
    """
    if stage.entry != ENTRY or stage.kind not in PRETRAININGS:
        return
    try:
        gallery = _stage_gallery(stage, directory, data_root, device)
        if gallery is None:
            return
        if gallery.failed or gallery.unreadable:
            print_error(f"example pictures: {gallery.summary}")
        shutil.rmtree(directory / FOLDER, ignore_errors=True)  # of an attempt that was killed before it published
        write_gallery(directory / FOLDER, gallery)
    except (SmaugError, OSError) as error:  # a full disk, which also fails the result
        print_error(f"example pictures: cannot be written: {error}")


def _stage_gallery(stage: StageDocument, directory: Path, data_root: Path, device: str) -> Gallery | None:
    """Draw the pictures, or note the error; None if the model neither masks patches nor selects frames."""
    try:
        trained = read_trained(directory, stage, data_root=data_root, device=device)
        kinds = trained.kinds
        if not kinds:
            return None
        num = NUM if len(kinds) == 1 else NUM - 2
        return make_gallery(trained, kinds, num, limit_s=LIMIT_S)
    except (SmaugError, OSError, RuntimeError, ValueError, MemoryError) as error:
        return Gallery.of_examples(failed=f"{type(error).__name__}: {error}")


def draw_pictures(kind: Kind, folder: Path, out: Path, *, data_root: Path, device: str) -> Gallery:
    """Draw pictures of a model to a folder of their own, with their list.

    Args:
        kind: of the pictures.
        folder: of a training: a stage of a store, or the output of `smaug pretrain` or `finetune`.
        out: absent or empty.
        data_root: folder of the media; embedded data is rendered there.
        device: `cpu` or `cuda`.

    Raises:
        SmaugError: the model does nothing of the kind, or a folder or the data is invalid.
    """
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise SmaugError(f"--out {out}: is there already and not empty; choose another folder")
    written = read_document(folder / "stage.json", ANY)
    if written is None:
        raise SmaugError(f"--from {folder}: holds no stage.json; expected the folder of a finished training")
    command = read_document(folder / "stage.json", ALONE) if "stage" in written else None
    stage = read_document(folder / "stage.json", STAGE) if command is None else command.stage
    if stage is None:
        raise SmaugError(f"--from {folder}: holds no stage.json any more; expected the folder of a finished training")
    if kind == "reconstruction" and stage.kind not in PRETRAININGS:
        raise SmaugError(f"--from {folder}: is {stage.name}, in which no patch is hidden; expected a pre-training")
    if not (folder / "model" / "config.json").exists():
        raise SmaugError(f"--from {folder}: holds no model; expected the folder of a finished training")
    from experiments.worker.device import check_device
    from smaug_core.visualization.examples import check_reconstructs, check_selects

    check_device(device)
    trained = read_trained(folder, stage, data_root=data_root, device=device, render=True)
    try:
        if kind == "reconstruction":
            check_reconstructs(trained.loaded.model, trained.mask_ratio)
        else:
            check_selects(trained.loaded.model)
    except SmaugError as error:
        raise SmaugError(f"--from {folder}: {error}") from error
    if kind == "selection":
        trained.loaded.check_words([sample.caption for sample in trained.samples])
    gallery = make_gallery(trained, [kind], NUM)
    write_gallery(out, gallery)
    return gallery


def read_trained(folder: Path, stage: StageDocument, *, data_root: Path, device: str, render: bool = False) -> Trained:
    """Read the model in a folder, and some items of its data: of the test split if there is one, else of training.

    Test items are spread evenly; others are the first of the corpus.

    Args:
        folder: of a training.
        stage: its document.
        data_root: folder of the media.
        device: `cpu` or `cuda`.
        render: render embedded data that is missing.

    Raises:
        SmaugError: the weights or the data cannot be read.
    """
    from smaug_core.data.datasets import open_source, splits_of
    from smaug_core.data.prepare.rendering import prepare
    from smaug_core.retriever import Retriever
    from smaug_core.visualization.examples import spread

    kind, settings = stage.kind, stage.settings
    own = settings[kind]
    corpus = own["corpus"] if kind in PRETRAININGS else [own["dataset"]]
    source = next((name for name in corpus if "test" in splits_of(name, data_root)), corpus[0])
    split = "test" if "test" in splits_of(source, data_root) else "train"
    data = from_settings(DataConfig, settings["data"], "data") if settings.get("data") else None
    if render:
        prepare([source], data, data_root)
    samples = open_source(source, split, data, data_root)
    return Trained(
        loaded=Retriever(folder, device),
        device=device,
        text_length=own["text_length"],
        mask_ratio=own.get("mask_ratio", 0.0),
        source=source,
        split=split,
        samples=spread(samples, NUM) if split == "test" else [samples[row] for row in range(min(NUM, len(samples)))],
    )


def make_gallery(trained: Trained, kinds: Sequence[Kind], num: int, *, limit_s: float = math.inf) -> Gallery:
    """Draw pictures of each kind of the first `num` samples, in the order of kinds and samples.

    An sample that cannot be read is listed without a picture. After `limit_s` no further picture is begun, and the
    gallery names the missing ones.
    """
    began, examples, unreadable, failed = time.monotonic(), [], {}, ""
    wanted = [(kind, number) for kind in kinds for number in range(1, 1 + min(num, len(trained.samples)))]
    for kind, number in wanted:
        if time.monotonic() - began > limit_s:
            failed = f"{kind}-{number} and what would follow are missing: {limit_s:.0f} s were over"
            break
        try:
            examples.append(trained.example(kind, number))
        except ClipError as error:
            unreadable[str(trained.samples[number - 1].media)] = str(error)
    return Gallery.of_examples(examples, unreadable, failed)


def write_gallery(folder: Path, gallery: Gallery) -> None:
    """Write a new folder with these pictures and their list; it appears complete, by rename.

    Raises:
        StoreError: it cannot be written, or exists and is not empty.
    """
    partial = folder.with_name(f".partial-{folder.name}-{os.getpid()}")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for example in gallery.examples:
            (partial / example.file).write_bytes(example.png)
        write_json(partial / LIST, gallery.raw)
        partial.rename(folder)
    except OSError as error:
        raise unwritable(folder, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _numbers(frames: Iterable[bool]) -> list[int]:
    """Return the numbers of the true ones, from 1."""
    return [number for number, true in enumerate(frames, start=1) if true]


def _frame_list(numbers: Sequence[int]) -> str:
    if not numbers:
        return "none of them"
    *others, last = map(str, numbers)
    return f"frames {', '.join(others)} and {last}" if others else f"frame {last}"
