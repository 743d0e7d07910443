"""A data set of one's own is trained on and ranked the same from files and from shards, wherever it lies."""

import tarfile
from dataclasses import asdict, replace
from hashlib import blake2b
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from smaug_core import stages
from smaug_core.config import EvaluateConfig
from smaug_core.data.dataset_info import DatasetInfo, describe_split, manifest_of, write_info
from smaug_core.data.datasets import source_digest
from smaug_core.data.manifest import ManifestKind, ManifestRow, write_manifest
from tests.small import CONFIG, PRETRAIN, make_items
from tests.training.test_train import Recorder

CLIPS = 9


def prepared(root: Path, *, in_shards: bool) -> Path:
    """Nine clips with a caption each, called `own`; as files, or in two shards that hold other members too."""
    media = root / "own" / "media"
    media.mkdir(parents=True)
    items = make_items(media, clips=CLIPS, stills=0)
    rows = []
    for number, item in enumerate(items):
        name, content = item.media.name, item.media.path.read_bytes()
        row = ManifestRow(
            id=f"own/train/{name}#0",
            sentences=(item.caption,),
            path=name,
            flip=True,
            content=blake2b(content, digest_size=16).digest(),
        )
        if in_shards:
            shard = f"{number // 5:05}.tar"
            with tarfile.open(media / shard, "a") as file:
                file.add(item.media.path, name)
                file.add(__file__, f"{number}.txt")
            with tarfile.open(media / shard) as file:
                member = file.getmember(name)
            row = replace(row, path=shard, member=name, offset=member.offset_data, length=member.size)
            item.media.path.unlink()
        rows.append(row)
    splits = {}
    for split in ("train", "test"):
        path = manifest_of(root / "own", split)
        splits[split] = describe_split(path, write_manifest(path, rows, ManifestKind(is_image=False)))
    write_info(DatasetInfo(folder=root / "own", name="own", is_image=False, splits=splits))
    return root


def run(kind, own, root, out, parents=()):
    out.mkdir()
    settings = {"model": asdict(CONFIG), "data": None, kind: asdict(own)}
    seed = 0 if kind == "pretrain" else None
    return stages.run(
        kind,
        settings,
        seed=seed,
        parents=list(parents),
        out=out,
        data_root=root,
        device="cpu",
        watch=Recorder(),
    )


def test_files_and_shards_give_the_same_weights_ranks_and_digests(tmp_path):
    found = {}
    for name in ("files", "shards"):
        root = prepared(tmp_path / name / "data", in_shards=name == "shards")
        run("pretrain", replace(PRETRAIN, corpus=("own",)), root, tmp_path / name / "pretrained")
        test = EvaluateConfig(dataset="own", text_length=32, rerank=4, frames=2)
        outcome = run("evaluate", test, root, tmp_path / name / "ranked", [tmp_path / name / "pretrained"])
        weights = load_file(tmp_path / name / "pretrained" / "model" / "model.safetensors")
        ranks = (tmp_path / name / "ranked" / "ranks.json").read_text()
        digests = [source_digest("own", split, None, root) for split in ("train", "test")]
        found[name] = (weights, outcome.metrics, outcome.notes["test_digest"], ranks, digests)
    files, shards = found["files"], found["shards"]
    assert all(torch.equal(files[0][name], shards[0][name]) for name in files[0] | shards[0])
    assert files[1:] == shards[1:] and None not in files[4]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
