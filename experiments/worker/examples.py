"""Making example pictures of a trained model: by the worker when a pre-training ends, and by hand."""

import math
import os
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.stages.kinds import PRETRAININGS
from experiments.stages.stage import ENTRY
from experiments.store.documents import ALONE, ANY, STAGE, StageDocument, read_document, unwritable, write_json
from experiments.store.examples import FOLDER, LIST, Example, Gallery, Kind
from experiments.worker.reporter import print_error
from smaug_core.config import DataConfig
from smaug_core.errors import ClipError, SmaugError
from smaug_core.settings import from_settings

if TYPE_CHECKING:
    from smaug_core.data.datasets import Item
    from smaug_core.retriever import Retriever

NUM = 6
"""Pictures of one kind; of both kinds that a stage leaves together, two less of each."""
MOST_BYTES = 80_000
"""Of one picture."""
FEW_BYTES, SMALL = 8_500, 96
"""Of one that a stage leaves whose frames are at most so many pixels wide, as at tiny, whose records are committed."""
LIMIT_S = 60.0
"""After so long a worker begins no further picture: they are worth no more waiting."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """A trained model, and the few clips or pictures that it is shown at."""

    loaded: "Retriever"
    device: str
    text_length: int
    """Caption tokens kept."""
    mask_ratio: float
    """Of its training; 0 where nothing was hidden."""
    source: str
    split: str
    items: "Sequence[Item]"

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """What can be shown of it."""
        from smaug_core.visualization.examples import check_reconstructs, check_selects

        found: list[Kind] = []
        with suppress(SmaugError):
            check_reconstructs(self.loaded.model, self.mask_ratio)
            found.append("reconstruction")
        with suppress(SmaugError):
            check_selects(self.loaded.model)
            found.append("selection")
        return tuple(found)

    def example(self, kind: Kind, number: int, most_bytes: int) -> Example:
        """The picture of one kind of the item of a number, from 1.

        Raises:
            SmaugError: the model does nothing of the kind.
            ClipError: the item cannot be read.
        """
        item = self.items[number - 1]
        return (self._reconstruction if kind == "reconstruction" else self._selection)(item, number, most_bytes)

    def _reconstruction(self, item: "Item", number: int, most_bytes: int) -> Example:
        from smaug_core.visualization.examples import reconstruct
        from smaug_core.visualization.image_strip import png, strip

        model, tokenizer, ratio = self.loaded.model, self.loaded.tokenizer, self.mask_ratio
        made = reconstruct(model, tokenizer, item, mask_ratio=ratio, text_length=self.text_length, device=self.device)
        content, width, height = png(strip([made.original, made.masked, made.restored]), most_bytes)
        alt = (
            f"Three times one frame of {self._told(item)}: as it is; with {100 * ratio:.4g} % of its patches hidden,"
            " in grey; and with the hidden patches as the model predicts them."
        )
        return Example(
            file=f"reconstruction-{number}.png",
            kind="reconstruction",
            caption=item.caption,
            alt=alt,
            source=self.source,
            split=self.split,
            width=width,
            height=height,
            mask_ratio=ratio,
            png=content,
        )

    def _selection(self, item: "Item", number: int, most_bytes: int) -> Example:
        from smaug_core.visualization.examples import choose
        from smaug_core.visualization.image_strip import png, strip

        made = choose(self.loaded.model, self.loaded.tokenizer, item, text_length=self.text_length, device=self.device)
        content, width, height = png(strip(list(made.frames), made.chosen), most_bytes)
        selected = _places(made.chosen)
        relevant = None if made.relevant is None else _places(made.relevant)
        alt = f"{len(made.chosen)} frames of {self._told(item)}. Selected, with a thick border and a tick: "
        alt += f"{_frames_told(selected)}."
        if relevant is not None:
            alt += f" What the caption names can be seen in {_frames_told(relevant)}."
        return Example(
            file=f"selection-{number}.png",
            kind="selection",
            caption=item.caption,
            alt=alt,
            source=self.source,
            split=self.split,
            width=width,
            height=height,
            selected=selected,
            relevant=relevant,
            scores=tuple(round(float(score), 4) for score in made.scores),
            png=content,
        )

    def _told(self, item: "Item") -> str:
        what = "picture" if item.is_image else "clip"
        split = "training" if self.split == "train" else self.split
        return f"a {split} {what} of {self.source}, “{item.caption}”"


def leave_pictures(stage: StageDocument, directory: Path, *, data_root: Path, device: str) -> None:
    """Put pictures of what a stage has learnt in the folder `examples` of its directory, before it is published.

    A stage is never lost for its pictures: errors are recorded in `examples/examples.json`, and printed to stderr,
    which is the log. Stages of other kinds, and stand-ins for stages, have none.
    """
    if stage.entry != ENTRY or stage.kind not in PRETRAININGS:
        return
    try:
        gallery = _whatever_can_be_made(stage, directory, data_root, device)
        if gallery is None:
            return
        if gallery.failed or gallery.unreadable:
            print_error(f"example pictures: {gallery.summary}")
        shutil.rmtree(directory / FOLDER, ignore_errors=True)  # of an attempt that was killed before it published
        write_gallery(directory / FOLDER, gallery)
    except (SmaugError, OSError) as error:  # a full disk: the result meets that too, and says so
        print_error(f"example pictures: cannot be kept: {error}")


def _whatever_can_be_made(stage: StageDocument, directory: Path, data_root: Path, device: str) -> Gallery | None:
    """The pictures, or why there are none; nothing if the model neither hides patches nor selects frames."""
    try:
        trained = read_trained(directory, stage, data_root=data_root, device=device)
        kinds = trained.kinds
        if not kinds:
            return None
        num = NUM if len(kinds) == 1 else NUM - 2
        small = trained.loaded.model.config.image_size <= SMALL
        return make_gallery(trained, kinds, num, FEW_BYTES if small else MOST_BYTES, limit_s=LIMIT_S)
    except (SmaugError, OSError, RuntimeError, ValueError, MemoryError) as error:
        return Gallery(failed=f"{type(error).__name__}: {error}")


def make_by_hand(kind: Kind, folder: Path, out: Path, *, data_root: Path, device: str) -> Gallery:
    """Write pictures of a model into a folder of their own, with their list.

    Args:
        kind: what to show.
        folder: of a training: a stage of a store, or what `smaug pretrain` or `finetune` wrote.
        out: made, or empty.
        data_root: where the media are; embedded data is rendered there.
        device: `cpu` or `cuda`.

    Raises:
        SmaugError: the model does nothing of the kind, or the folders or the data are not right.
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
        trained.loaded.check_words([item.caption for item in trained.items])
    gallery = make_gallery(trained, [kind], NUM, MOST_BYTES)
    write_gallery(out, gallery)
    return gallery


def read_trained(folder: Path, stage: StageDocument, *, data_root: Path, device: str, render: bool = False) -> Trained:
    """The model in a folder, with items of the data that it was trained on: held out, if there is such a split.

    Of embedded data those are spread evenly over the test clips, else the first of the corpus.

    Args:
        folder: of a training.
        stage: its document.
        data_root: where the media are.
        device: `cpu` or `cuda`.
        render: embedded data that is not there.

    Raises:
        SmaugError: the weights or the data cannot be read.
    """
    from smaug_core.data.datasets import SPLITS, read_source
    from smaug_core.data.prepare.rendering import prepare
    from smaug_core.retriever import Retriever
    from smaug_core.visualization.examples import spread

    kind, settings = stage.kind, stage.settings
    own = settings[kind]
    corpus = own["corpus"] if kind in PRETRAININGS else [own["dataset"]]
    source = next((name for name in corpus if "test" in SPLITS.get(name, ())), corpus[0])
    split = "test" if "test" in SPLITS.get(source, ()) else "train"
    data = from_settings(DataConfig, settings["data"], "data") if settings.get("data") else None
    if render:
        prepare([source], data, data_root)
    items = read_source(source, split, data, data_root)
    return Trained(
        loaded=Retriever(folder, device),
        device=device,
        text_length=own["text_length"],
        mask_ratio=own.get("mask_ratio", 0.0),
        source=source,
        split=split,
        items=spread(items, NUM) if split == "test" else items[:NUM],
    )


def make_gallery(
    trained: Trained, kinds: Sequence[Kind], num: int, most_bytes: int, *, limit_s: float = math.inf
) -> Gallery:
    """Pictures of each kind of the first `num` items, in the order of kinds and items.

    An item that cannot be read is listed and has no picture. After `limit_s` no further one is begun, and the gallery
    says which are missing.
    """
    began, examples, unreadable, failed = time.monotonic(), [], {}, ""
    wanted = [(kind, number) for kind in kinds for number in range(1, 1 + min(num, len(trained.items)))]
    for kind, number in wanted:
        if time.monotonic() - began > limit_s:
            failed = f"{kind}-{number} and what would follow are missing: {limit_s:.0f} s were over"
            break
        try:
            examples.append(trained.example(kind, number, most_bytes))
        except ClipError as error:
            unreadable[str(trained.items[number - 1].media)] = str(error)
    return Gallery(examples=tuple(examples), unreadable=unreadable, failed=failed)


def write_gallery(folder: Path, gallery: Gallery) -> None:
    """Make a new folder with these pictures and their list; it appears complete, by rename.

    Raises:
        StoreError: it cannot be written, or is there and not empty.
    """
    partial = folder.with_name(f".partial-{folder.name}-{os.getpid()}")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for example in gallery.examples:
            (partial / example.file).write_bytes(example.png)
        write_json(partial / LIST, gallery.listing())
        partial.rename(folder)
    except OSError as error:
        raise unwritable(folder, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _places(which: Any) -> tuple[int, ...]:
    """The true ones, counted from 1."""
    return tuple(place for place, true in enumerate(which, start=1) if true)


def _frames_told(places: Sequence[int]) -> str:
    if not places:
        return "none of them"
    *others, last = map(str, places)
    return f"frames {', '.join(others)} and {last}" if others else f"frame {last}"
