"""The paper's corpora and retrieval benchmarks: their published sizes, known without their files."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """A corpus or benchmark of captioned pictures or clips."""

    is_image: bool
    captions: dict[str, int]
    """Captions of each split: what an epoch or an evaluation counts. A paragraph counts once, as its clip does."""
    media: dict[str, int]
    """Pictures or clips of each split."""
    annotations: dict[str, str]
    """Annotation file of each split that Singularity published, in the folder of its annotations."""
    format: str = "singularity"
    """Format of the annotation files, one of `smaug_core.data.sources.formats`."""
    is_paragraph: bool = False
    """Whether a list of texts holds the sentences of one caption; else each text is a caption."""


PUBLISHED = {
    # CC3M: 2.95 M (Singularity, issue 19). WebVid: 2.5 M pairs (SMAUG 3.4), here 2.49 M, as Singularity rounds it.
    "cc3m": Published(
        is_image=True,
        captions={"train": 2_950_000},
        media={"train": 2_950_000},
        annotations={"train": "anno_pretrain/cc3m_train.json"},
    ),
    "webvid": Published(
        is_image=False,
        captions={"train": 2_490_000},
        media={"train": 2_490_000},
        annotations={"train": "anno_pretrain/webvid_train.json"},
    ),
    # Published is the sum over all six, 17.28 M media with 18.41 M captions (Singularity). These four parts are
    # recalled from the tables of ALBEF and Singularity and not checked against them; with the two above they add up.
    "cc12m": Published(
        is_image=True,
        captions={"train": 10_770_000},
        media={"train": 10_770_000},
        annotations={"train": "anno_pretrain/cc12m.json"},
    ),
    "sbu": Published(
        is_image=True,
        captions={"train": 860_000},
        media={"train": 860_000},
        annotations={"train": "anno_pretrain/sbu.json"},
    ),
    "vg": Published(
        is_image=True,
        captions={"train": 769_000},
        media={"train": 100_000},
        annotations={"train": "anno_pretrain/vg.json"},
    ),
    "coco": Published(
        is_image=True,
        captions={"train": 567_000},
        media={"train": 113_000},
        annotations={"train": "anno_pretrain/coco.json"},
    ),
    # 10 K videos with 20 captions each, trained on 7 K, tested on 1 K with one caption each (SMAUG 4.1). Inferred:
    # "7 K" as 7,010, the size of the split that Singularity's file names.
    "msrvtt": Published(
        is_image=False,
        captions={"train": 140_200, "test": 1_000},
        media={"train": 7_010, "test": 1_000},
        annotations={
            "train": "anno_downstream/msrvtt_ret_train7k.json",
            "test": "anno_downstream/msrvtt_ret_test1k.json",
        },
    ),
    # Published are about 10 K and 20 K videos (SMAUG 4.1), and 4,917 in ActivityNet's val_1, the `val` that the paper
    # reports. The other splits are recalled from papers that use them and not checked.
    "didemo": Published(
        is_image=False,
        captions={"train": 8_395, "val": 1_065, "test": 1_004},
        media={"train": 8_395, "val": 1_065, "test": 1_004},
        annotations={split: f"anno_downstream/didemo_ret_{split}.json" for split in ("train", "val", "test")},
        is_paragraph=True,
    ),
    "anet": Published(
        is_image=False,
        captions={"train": 10_009, "val": 4_917},
        media={"train": 10_009, "val": 4_917},
        annotations={"train": "anno_downstream/anet_ret_train.json", "val": "anno_downstream/anet_ret_val_1.json"},
        is_paragraph=True,
    ),
}
"""Sizes by the name of the source, which is the name of its folder."""
