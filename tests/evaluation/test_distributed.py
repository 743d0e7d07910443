"""Evaluation in several processes: the same ranks, bit for bit, and the same end."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from smaug_core.clip_shape import ClipShape
from smaug_core.config import EvaluateConfig
from smaug_core.data.tokenizer import load_tokenizer
from smaug_core.distributed import World, joined_world
from smaug_core.errors import SmaugError
from smaug_core.evaluation import retrieval
from smaug_core.evaluation.retrieval import CLIPS_AT_ONCE, evaluate, largest_share, own_clips
from smaug_core.model.init_weights import build
from smaug_core.stage_protocol import Interrupted
from smaug_core.training.checkpoint import save_model
from tests.processes import run_together
from tests.small import CONFIG, make_items, run_context
from tests.training.test_train import Recorder

NUM_CLIPS = 2 * CLIPS_AT_ONCE + 5
LOST = (1, 20, NUM_CLIPS - 1)
"""Clips of the first, the second and the last pass that are not there."""
EVALUATE = EvaluateConfig(dataset="made", text_length=32, rerank=6, frames=4)


class AskedToStop(Recorder):
    """A watch that asks to stop after the first report."""

    def stop_requested(self):
        return bool(self.reports)


def evaluate_all(rank, folder, items):
    """Evaluate both models, then with a damaged clip, then stopped; note scores and ends."""
    notes = {}
    with joined_world("cpu") as world:
        scores = []
        whole = retrieval.score

        def noted(*inputs):
            scores.append(whole(*inputs))
            return scores[-1]

        retrieval.score = noted
        for name in ("still", "video"):
            out, weights = folder / f"{name}-{world.size}-{rank}", folder / name / "model"
            out.mkdir()
            context = run_context(out, Recorder(), weights=weights, world=world)
            outcome = evaluate(CONFIG, EVALUATE, items, context)
            notes[name] = (scores[-1].contrast, scores[-1].match, outcome.metrics, [p.name for p in out.iterdir()])
        retrieval.score = whole
        damaged = [
            replace(item, media=folder / f"none-{number}.mp4") if number in LOST else item
            for number, item in enumerate(items)
        ]
        for name, chosen in (("damaged", damaged), ("stopped", items)):
            is_asked = name == "stopped" and rank == world.size - 1
            watch = AskedToStop() if is_asked else Recorder()
            try:
                evaluate(CONFIG, EVALUATE, chosen, run_context(folder, watch, weights=weights, world=world))
            except (SmaugError, Interrupted) as error:
                notes[name] = f"{type(error).__name__}: {error}"
    torch.save(notes, folder / f"notes-{world.size}-{rank}.pt")


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """The folder, and what each of 1, 2 and 3 processes noted, by their number."""
    folder = tmp_path_factory.mktemp("evaluated")
    items = make_items(folder, clips=NUM_CLIPS, stills=0)
    items[30] = replace(items[30], media=items[3].media, number=3)  # two captions of one clip
    vocab_size = load_tokenizer("moving_shapes").vocab_size
    for name, shape in (("still", ClipShape()), ("video", ClipShape(frames=4, selected=2))):
        save_model(folder / name / "model", build(CONFIG, vocab_size, seed=0, shape=shape), {})
    notes = {}
    for size in (1, 2, 3):
        run_together(size, evaluate_all, folder, items)
        notes[size] = [torch.load(folder / f"notes-{size}-{rank}.pt", weights_only=False) for rank in range(size)]
    return folder, notes


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("model", ["still", "video"])
def test_scores_and_ranks_do_not_depend_on_the_number_of_processes(evaluated, size, model):
    folder, notes = evaluated
    contrast, match, metrics, _ = notes[1][0][model]
    assert np.isfinite(match).sum() >= 6 * NUM_CLIPS
    for rank, process in enumerate(notes[size]):
        np.testing.assert_allclose(process[model][0], contrast, atol=1e-6, rtol=0)
        np.testing.assert_allclose(process[model][1], match, atol=1e-6, rtol=0)
        assert process[model][2] == metrics
        assert process[model][3] == (["ranks.json"] if rank == 0 else [])
    alone, first = (folder / f"{model}-{number}-0" / "ranks.json" for number in (1, size))
    assert alone.read_bytes() == first.read_bytes()
    assert len(json.loads(alone.read_text())["t2v"]) == NUM_CLIPS


@pytest.mark.parametrize("size", [1, 2, 3])
def test_unreadable_clips_stop_all_processes_and_all_are_named(evaluated, size):
    folder, notes = evaluated
    named = "; ".join(f"{folder / f'none-{number}.mp4'}: no such file" for number in LOST)
    told = f"ClipError: {len(LOST)} of {NUM_CLIPS - 1} clips cannot be read: {named}"
    assert [p["damaged"] for p in notes[size]] == [told] * size


@pytest.mark.parametrize("size", [1, 2, 3])
def test_one_process_that_is_asked_to_stop_stops_all(evaluated, size):
    told = "Interrupted: stopped during evaluation; it starts over next time"
    assert [process["stopped"] for process in evaluated[1][size]] == [told] * size


@pytest.mark.parametrize(("clips", "size"), [(37, 1), (37, 2), (37, 3), (37, 4), (256, 3), (1, 2)])
def test_processes_share_whole_passes(clips, size):
    shares = [list(range(clips))[own_clips(clips, World(rank=rank, size=size))] for rank in range(size)]
    assert sum(shares, []) == list(range(clips))
    assert all(not share or share[0] % CLIPS_AT_ONCE == 0 for share in shares)
    assert max(map(len, shares)) <= largest_share(clips, World(size=size)) < max(map(len, shares)) + CLIPS_AT_ONCE
