"""Commands that render, list and check data sets."""

import os
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from experiments.cli.options import FAILED, PATH, Home, Json, ScaleName, Settings, home_folder
from experiments.cli.progress import counted_progress
from experiments.console import Console, complain, print_json, say
from smaug_core.errors import SmaugError

if TYPE_CHECKING:
    from smaug_core.data.dataset_info import DatasetInfo
    from smaug_core.data.prepare.conversion import Prepared
    from smaug_core.data.prepare.dataset_statistics import SplitStatistics, Spread


class Frames(Enum):
    """Preparation of clips."""

    jpeg = "jpeg"
    intra = "intra"
    copy = "copy"


data = typer.Typer(rich_markup_mode=None)

Name = Annotated[str, typer.Argument(help="Data set: its folder below the data folder.", metavar="NAME")]
Workers = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Processes that read media (default: one for each core).")
]


@data.callback(invoke_without_command=True)
def data_of_scale(
    context: typer.Context,
    scale: ScaleName = "tiny",
    set_: Settings = [],  # noqa: B006
    home: Home = None,
) -> None:
    """Render and check a scale's data; prepare data sets.

    Without a command: render embedded data and check that real data is there; exit with 1 if real data sets of the
    scale are missing or damaged.
    """
    if context.invoked_subcommand is not None:
        _refuse_options(context)
        return
    from experiments.config.scale import load_scale
    from experiments.maintenance.doctor.doctor import lines_of
    from experiments.maintenance.doctor.home import check_real_data
    from experiments.planning.inputs import scale_stages
    from experiments.run import prepare_data
    from experiments.stages.trial import parse_overrides, with_settings

    chosen, folder = with_settings(load_scale(scale), parse_overrides(set_)), home_folder(home)
    prepare_data([chosen.base_config()], folder / "data", Console())
    findings = list(check_real_data(folder, scale_stages(chosen, folder / "data")))
    for line in (line for finding in findings for line in lines_of(finding)):
        say(line)
    missing = sum(finding.level == "fault" for finding in findings)
    if missing:
        say(f"{folder / 'data'}: not complete; {missing} of {len(findings)} data sets are missing or damaged")
        raise typer.Exit(FAILED)
    say(f"{folder / 'data'}: complete")


def _refuse_options(context: typer.Context) -> None:
    """Refuse options that stand before a command, which has its own: they would have no effect."""
    for name in context.params:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            command = context.invoked_subcommand
            raise SmaugError(f"smaug data: expected options after {command!r}, got --{name.strip('_')} before it")


@data.command("prepare")
def prepare(
    name: Name,
    from_: Annotated[
        Path,
        typer.Option("--from", help="Annotation file (Singularity's JSON), or folder of WebDataset shards.", **PATH),
    ],
    media: Annotated[
        Path | None,
        typer.Option(help="Folder of the annotated files (default: ../media).", **PATH),
    ] = None,
    to: Annotated[
        Path | None, typer.Option(help="Folder to write media to (default: media in the data set's folder).", **PATH)
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split (default: the annotation file's name, or train).")] = None,
    frames: Annotated[
        Frames,
        typer.Option(help="Prepare clips as JPEG frames or as mp4 of key frames, 2 a second; or copy: leave them."),
    ] = Frames.jpeg,
    short_side: Annotated[int, typer.Option(help="Pixels of the shorter side of prepared media.", min=16)] = 224,
    paragraphs: Annotated[bool, typer.Option("--paragraphs", help="Join a row's captions to one.")] = False,
    licence: Annotated[str, typer.Option(help="Licence, as the data set's description names it.")] = "unknown",
    workers: Annotated[int | None, typer.Option(help="Processes (default: one for each CPU).", min=1)] = None,
    home: Home = None,
) -> None:
    """Prepare a data set: manifest, and media that decode fast.

    The same command continues after an interruption. Samples that cannot be used are left out, and listed with the
    reason in a file.
    """
    from experiments.engines.base import local_cpus
    from smaug_core.data.prepare.conversion import prepare_split
    from smaug_core.data.prepare.source import PrepareRequest, resolve

    root = home_folder(home) / "data"
    info, chosen, parts, preparation = resolve(
        PrepareRequest(name, from_, media, to, split, frames.value, short_side, paragraphs, licence), root
    )
    console, started = Console(), time.monotonic()
    with console.bars() as bars:

        def show(done: int, total: int, kept: int, rejected: int) -> None:
            seconds = time.monotonic() - started
            rest = timedelta(seconds=round(seconds / done * (total - done)))
            note = f"{kept:,} samples, {rejected:,} left out, {(kept + rejected) / seconds:,.0f}/s, {rest} left"
            bars.show(name, f"preparing {name} {chosen}", done, total, note)

        made = prepare_split(info, chosen, parts, preparation, workers=workers or local_cpus(), progress=show)
    _say_prepared(made, time.monotonic() - started)


def _say_prepared(made: "Prepared", seconds: float) -> None:
    info, counts = made.info, made.counts
    media = f"{counts.media:,} {'pictures' if info.is_image else 'clips'}"
    preparation = "left as they are" if info.preparation == "none" else info.preparation
    found = f"{info.name} {made.split}: {counts.captions:,} captions of {media} ({preparation})"
    say(f"{found} in {seconds:.0f} s: {info.file}")
    if made.report is not None:
        say(f"left out: {made.rejected:,}; each with its reason in {made.report}")


@data.command("list")
def list_(home: Home = None, json_: Json = False) -> None:
    """List the prepared data sets."""
    from dataclasses import asdict

    from smaug_core.data.dataset_info import prepared_names, read_info

    root, found, damaged = home_folder(home) / "data", list["DatasetInfo"](), list[SmaugError]()
    for name in prepared_names(root):
        try:
            found.append(read_info(root, name))
        except SmaugError as error:
            damaged.append(error)
    for fault in damaged:
        complain(str(fault))
    if json_:
        print_json([asdict(info) | {"folder": str(info.folder)} for info in found])
    else:
        _print_sets(root, found)
    if damaged:
        raise typer.Exit(FAILED)


def _print_sets(root: Path, found: Sequence["DatasetInfo"]) -> None:
    rows = [
        (info.name, split, "pictures" if info.is_image else "clips", info.preparation, info.licence)
        + (f"{held.captions:,}", f"{held.media:,}", _share(info, split))
        for info in found
        for split, held in info.splits.items()
    ]
    if not rows:
        say(f"{root}: no prepared data sets; `smaug data prepare` makes one")
        return
    columns = ("data set", "split", "kind", "preparation", "licence", "captions", "media", "of published")
    Console().print_table("Prepared data sets", columns, rows, names=5)


@data.command()
def check(
    name: Name,
    write: Annotated[
        bool, typer.Option("--write", help="Write the manifests again without the captions of bad media.")
    ] = False,
    workers: Workers = None,
    home: Home = None,
) -> None:
    """Decode every clip and picture of a data set.

    Bad ones are listed with their row of the manifest; exit with 1 if there are some that stay in it.
    """
    from experiments.engines.base import local_cpus
    from smaug_core.data.dataset_info import read_info
    from smaug_core.data.prepare.checking import check_split, write_clean

    info, bad = read_info(home_folder(home) / "data", name), {}
    for split in info.splits:
        with counted_progress(Console(to_stderr=True), f"checking {name} {split}") as show:
            bad[split] = check_split(info, split, workers=workers or local_cpus(), progress=show)
        for row in bad[split]:
            say(f"{split} row {row.number} ({row.id}): {row.reason}")
        say(f"{name} {split}: {info.splits[split].captions:,} captions, {len(bad[split]):,} of them with bad media")
    left = sum(map(len, bad.values()))
    if write or not left:
        try:
            write_clean(info, bad)
        except OSError as error:
            raise SmaugError(f"{info.folder}: cannot be written ({error.strerror})") from error
    if left and write:
        say(f"{info.file}: written again without them")
    elif left:
        say("`--write` writes the manifests again without them")
        raise typer.Exit(FAILED)


@data.command()
def stats(name: Name, scale: ScaleName = "paper", home: Home = None, json_: Json = False) -> None:
    """Count captions, durations, tokens and duplicates.

    Tokens and unknown words are those of the scale's vocabulary, in a sample of 10,000 captions of each split.
    """
    from dataclasses import asdict

    from experiments.config.scale import load_scale
    from smaug_core.data.dataset_info import read_info
    from smaug_core.data.prepare.dataset_statistics import split_statistics
    from smaug_core.data.tokenizer import load_tokenizer

    info, tokenizer = read_info(home_folder(home) / "data", name), None
    vocabulary = load_scale(scale).base_config().model.tokenizer
    try:
        tokenizer = load_tokenizer(vocabulary)
    except SmaugError as error:
        complain(f"tokens are not counted: {error}")
    found = {split: split_statistics(info.open(split), tokenizer) for split in info.splits}
    if json_:
        print_json({split: asdict(each) for split, each in found.items()})
        return
    for split, each in found.items():
        for line in _statistics_lines(each, "pictures" if info.is_image else "clips"):
            say(f"{name} {split}: {line}")
        if each.unknown_words is not None and each.unknown_words.is_high:
            complain(each.unknown_words.message(f"{name} {split}", vocabulary))


def _statistics_lines(found: "SplitStatistics", media: str) -> Iterator[str]:
    yield f"{found.captions:,} captions of {found.media:,} {media}"
    if found.seconds is not None:
        hours = f"{found.seconds.total / 3600:,.2f} hours in {found.seconds.count:,} of them"
        yield f"{hours}; seconds: {_spread_words(found.seconds)}"
    yield f"words of a caption: {_spread_words(found.words)}"
    if found.tokens is not None and found.unknown_words is not None:
        unknown, tokens = found.unknown_words.unknown, max(found.unknown_words.tokens, 1)
        yield f"tokens of a caption: {_spread_words(found.tokens)}; {unknown / tokens:.2%} unknown"
    yield f"{found.repeated_captions:,} captions repeat an earlier one, {found.repeated_media:,} {media} do"


def _spread_words(found: "Spread") -> str:
    return (
        f"{found.least:.4g} to {found.most:.4g}, half of them at most {found.median:.4g},"
        f" 95 % at most {found.most_of_95_percent:.4g}"
    )


@data.command()
def show(
    name: Name,
    count: Annotated[int, typer.Argument(min=1, help="Captions to show, evenly spread.", metavar="[N]")] = 24,
    split: Annotated[str, typer.Option(help="Split to show.")] = "train",
    out: Annotated[
        Path | None, typer.Option(help="Page to write (default: contact_sheet_SPLIT.html beside the manifest).", **PATH)
    ] = None,
    home: Home = None,
) -> None:
    """Write a contact sheet: a page of frames with captions."""
    from smaug_core.data.dataset_info import read_info
    from smaug_core.data.prepare.contact_sheet import contact_sheet
    from smaug_core.files import write_whole

    info = read_info(home_folder(home) / "data", name)
    page = contact_sheet(info.open(split), f"{name} {split}", count)
    path = out or info.folder / f"contact_sheet_{split}.html"
    try:
        write_whole(path, lambda partial: partial.write_text(page, encoding="utf-8"))
    except OSError as error:
        raise SmaugError(f"{path}: cannot be written ({error.strerror})") from error
    say(os.path.relpath(path))


def _share(info: "DatasetInfo", split: str) -> str:
    """Share of the published captions that are here, where it is known."""
    return f"{info.splits[split].captions / info.published[split].captions:.1%}" if split in info.published else ""
