"""Any number of processes: the same losses, gradients and weights, and the same end."""

import os
import pickle
import signal
import time
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from smaug_core.clip_shape import ClipShape
from smaug_core.data.batch import Batch, places_of_words
from smaug_core.distributed import World, check_exchange, first_does, joined_world
from smaug_core.errors import CheckpointError, ClipError, DivergedError, SettingsError, SmaugError
from smaug_core.model.init_weights import build
from smaug_core.stage_protocol import Interrupted
from smaug_core.training.checkpoint import Checkpoints, save_model
from smaug_core.training.train import pretrain, pretrain_video, spread
from tests.processes import run_together
from tests.small import CONFIG, PRETRAIN, PRETRAIN_VIDEO, VOCABULARY, make_batch, make_items, run_context
from tests.training.test_train import Recorder

GROUP = 2
MEDIA = torch.tensor([0, 1, 0, 2, 3, 0, 4, 3])
"""The same clip twice in a process, in two neighbours, and far apart."""


def words_hidden(batch: Batch, *rows: int) -> Batch:
    """The batch with hidden words in these captions only."""
    targets = torch.full_like(batch.words, -100)
    for count, row in enumerate(rows, start=1):
        targets[row, 1 : 1 + min(count, 3)] = batch.words[row, 1 : 1 + min(count, 3)]
    places, found = places_of_words(targets)
    hidden_words = torch.where(targets == -100, batch.words, 4)
    return replace(batch, word_places=places, word_targets=found, hidden_words=hidden_words)


def cases() -> dict[str, tuple[ClipShape, Batch, dict[str, str], dict[str, object]]]:
    """By name: the frames, the global batch, how it is contrasted, and what is special about the model."""
    one, video = ClipShape(), ClipShape(frames=4, selected=2)
    still, clips = make_batch(num=8), make_batch(num=8, frames=4)
    by_group = {"vtc_negatives": "group"}
    return {
        "one frame": (one, still, {}, {}),
        "clips that come twice": (one, replace(still, media=MEDIA), {}, {}),
        "contrast in groups": (one, replace(still, media=MEDIA), by_group, {}),
        "uneven hidden words": (one, words_hidden(still, 0, 1, 6), {}, {}),
        "one hidden word": (one, words_hidden(still, 5), {}, {}),
        "no hidden word": (one, words_hidden(still), {}, {}),
        "fine-tuning": (one, make_batch(num=8, mask_ratio=0.0, hide_words=False), {}, {}),
        "no decoder": (one, still, {}, {"decoder_depth": 0, "learn_temperature": False}),
        "4 to 2 frames": (video, clips, {}, {}),
        "4 to 2 frames, twice, in groups": (video, replace(clips, media=MEDIA), by_group, {}),
        "4 to 2 frames by clip": (video, clips, {}, {"selection_per": "clip"}),
        "layers recomputed": (video, clips, {}, {"recompute": True}),
        "4 frames": (ClipShape(frames=4, selected=4), clips, {}, {}),
    }


def share_of(batch: Batch, world: World) -> Batch:
    parts = {f.name: getattr(batch, f.name) for f in fields(batch)}
    own, words = world.share(len(batch.media)), {}
    if batch.word_targets is not None:
        targets, is_word = torch.full_like(batch.words, -100), batch.word_targets != -100
        targets.view(-1)[batch.word_places[is_word]] = batch.word_targets[is_word]
        words["word_places"], words["word_targets"] = places_of_words(targets[own])
    return Batch(**{name: part if part is None else part[own] for name, part in parts.items()} | words)


def step(world: World, name: str) -> list[tuple[dict[str, float], dict[str, torch.Tensor | None]]]:
    """The losses and all gradients, as the training loop computes them, of two steps without a change of weights."""
    shape, batch, options, changes = cases()[name]
    recompute = changes.pop("recompute", False)
    model = build(replace(CONFIG, **changes), VOCABULARY, seed=0, shape=shape)
    model.recompute_layers(recompute)
    losses_of = spread(model, world)
    results = []
    for _ in range(2):
        losses = losses_of(share_of(batch, world), negatives_group=GROUP, world=world, **options)
        terms = torch.stack(list(losses.values()))
        told = dict(zip(losses, (world.total(terms) / world.size).tolist(), strict=True))
        model.zero_grad()
        terms.sum().backward()
        results.append((told, {n: p.grad for n, p in model.named_parameters()}))
    return results


def take_steps(rank: int, folder: Path) -> None:
    with joined_world("cpu") as world:
        assert world.rank == rank
        torch.save({name: step(world, name) for name in cases()}, folder / f"steps-{rank}.pt")
        rows = torch.tensor([[1.0 + rank]] * 2, requires_grad=True)
        everything = world.gather(rows)
        assert everything.tolist() == [[1.0 + r] for r in range(world.size) for _ in range(2)]
        owed = torch.arange(2.0 * world.size).unsqueeze(1) * 10**rank  # what this process owes to every row
        (everything * owed).sum().backward()
        torch.save(rows.grad, folder / f"gathered-{rank}.pt")


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)])
def spread_steps(request, tmp_path_factory):
    """What each of several processes got for every case."""
    folder = tmp_path_factory.mktemp("steps")
    run_together(request.param, take_steps, folder)
    return [torch.load(folder / f"steps-{rank}.pt") for rank in range(request.param)], folder


@pytest.fixture(scope="module")
def steps_alone():
    return {name: step(World(), name) for name in cases()}


@pytest.mark.parametrize("name", cases())
def test_losses_and_gradients_do_not_depend_on_the_number_of_processes(spread_steps, steps_alone, name):
    losses, gradients = steps_alone[name][0]
    for its_losses, its_gradients in (result for process in spread_steps[0] for result in process[name]):
        assert its_losses == pytest.approx(losses, abs=1e-5)
        assert its_gradients.keys() == gradients.keys()
        for parameter, gradient in gradients.items():
            its = its_gradients[parameter]
            if gradient is None:
                assert its is None, f"{parameter} is not part of the losses and got a gradient"
            else:
                torch.testing.assert_close(its, gradient, atol=1e-5, rtol=1e-5, msg=lambda m, p=parameter: f"{p}: {m}")


def test_the_gradient_of_a_gathered_row_is_the_sum_of_what_all_processes_owe_to_it(spread_steps):
    """By hand: process r owes 10^r x i to row i; process 1 of 2 owns rows 2 and 3."""
    results, folder = spread_steps
    debts = {2: 11.0, 4: 1111.0}[len(results)]
    for rank in range(len(results)):
        owned = torch.tensor([[2.0 * rank], [2.0 * rank + 1]])
        torch.testing.assert_close(torch.load(folder / f"gathered-{rank}.pt"), owned * debts)


@pytest.mark.parametrize(
    ("tensor", "device", "found"),
    [
        (torch.ones(2, 3).T, "cpu", "torch.float32, shape [3, 2], strides [1, 3], on cpu"),
        (torch.ones(2, 1).expand(2, 3), "cpu", "torch.float32, shape [2, 3], strides [1, 0], on cpu"),
        (torch.ones(2, dtype=torch.int16), "cpu", "torch.int16, shape [2], strides [1], on cpu"),
        (torch.ones(2, dtype=torch.bool), "cpu", "torch.bool, shape [2], strides [1], on cpu"),
        (torch.ones(2), "cuda", "torch.float32, shape [2], strides [1], on cpu"),
    ],
)
def test_what_nccl_would_refuse_is_refused_by_gloo_too(tensor, device, found):
    with pytest.raises(ValueError) as raised:
        check_exchange(tensor, device)
    assert str(raised.value) == (
        f"exchange between processes: got {found}; expected a contiguous tensor of numbers on {device}"
    )


def test_every_error_of_one_process_can_be_sent_to_the_others():
    plain = [kind("x.mp4: no such file") for kind in (SmaugError, ClipError, CheckpointError, DivergedError)]
    for error in [*plain, SettingsError([("pretrain.lr", "-1 is not allowed")])]:
        received = pickle.loads(pickle.dumps(error))
        assert (type(received), str(received)) == (type(error), str(error))


def test_a_tensor_left_on_the_cpu_is_not_exchanged_by_processes_with_gpus():
    with pytest.raises(ValueError, match="on cpu; expected a contiguous tensor of numbers on cuda"):
        World(rank=0, size=2, device="cuda").gather(torch.ones(2))


def train_all(rank: int, folder: Path) -> None:
    """Whole trainings from files, some that end early; each process notes how they ended."""
    notes = {}
    with joined_world("cpu") as world:
        items = make_items(folder / "media", clips=12, stills=6) if rank == 0 else None
        items = world.collect(items)[0]

        def train(name, config=SPREAD, model=CONFIG, stop_after=None, items=items, run=pretrain, weights=None):
            # Only the last process is asked to stop.
            watch = Recorder(stop_after=stop_after if rank == world.size - 1 else None)
            try:
                outcome = run(model, config, items, run_context(folder / name, watch, world=world, weights=weights))
                ended = outcome.notes
            except (SmaugError, Interrupted) as error:
                ended = f"{type(error).__name__}: {error}"
            notes[name] = {"ended": ended, "reports": watch.reports, "useful_s": watch.useful_s}

        train("straight")
        train("stopped", stop_after=3)
        train("diverged", replace(SPREAD, lr=1e30, min_lr=1e30))
        train("unshared", replace(SPREAD, negatives_group=4))
        if rank == 0:
            save_model(folder / "still" / "model", build(CONFIG, 99, seed=0), {})
        world.wait()
        train("wrong weights", VIDEO, weights=folder / "still" / "model", items=items[:12], run=pretrain_video)

        # Of the first process's share in one epoch, of the other's in the next.
        items[2].media.path.write_bytes(b"no video")
        items[9].media.path.write_bytes(b"no video")
        world.wait()
        train("tolerant", replace(SPREAD, max_unreadable=2 / 18))
        train("strict", replace(SPREAD, max_unreadable=1 / 18))
        watch = Recorder()
        with pytest.raises(CheckpointError) as raised:
            pretrain(CONFIG, SPREAD, items, run_context(folder / ["tolerant", "stopped"][rank], watch, world=world))
        notes["apart"] = str(raised.value)
    torch.save(notes, folder / f"notes-{rank}.pt")


SPREAD = replace(PRETRAIN, negatives_group=2)
VIDEO = replace(PRETRAIN_VIDEO, negatives_group=2)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of two processes' trainings, and what each process noted."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "media").mkdir()
    run_together(2, train_all, folder)
    return folder, [torch.load(folder / f"notes-{rank}.pt") for rank in range(2)]


@pytest.fixture(scope="module")
def alone(trained):
    """The same training in one process, and another whose clips are damaged: its folder and reports."""
    folder, _ = trained
    items = make_items(folder / "media", clips=12, stills=6)
    straight = Recorder()
    pretrain(CONFIG, SPREAD, items, run_context(folder / "alone", straight))
    return folder / "alone", straight.reports, items


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "model" / "model.safetensors")


def assert_same_losses(one, other):
    assert [(step, total) for step, total, _ in one] == [(step, total) for step, total, _ in other]
    for (_, _, mine), (_, _, theirs) in zip(one, other, strict=True):
        assert mine == pytest.approx(theirs, abs=1e-4)


def assert_close_weights(one, other):
    """But for attention's key biases: their gradients are rounding errors, which the optimizer makes steps of."""
    one, other = (_without_key_biases(weights(folder)) for folder in (one, other))
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], atol=1e-3, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}")


def _without_key_biases(tensors):
    kept = {name: tensor for name, tensor in tensors.items() if not name.endswith("key.bias")}
    for name in [name for name in kept if name.endswith("qkv.bias")]:
        query, _, value = kept[name].chunk(3)
        kept[name] = torch.cat([query, value])
    return kept


def test_a_training_has_the_same_losses_and_weights_in_two_processes_as_in_one(trained, alone):
    folder, notes = trained
    for process in notes:
        assert_same_losses(process["straight"]["reports"], alone[1])
    assert_close_weights(folder / "straight", alone[0])


def test_one_process_that_is_asked_to_stop_stops_all_and_any_number_goes_on(trained, alone):
    folder, notes = trained
    assert [process["stopped"]["ended"] for process in notes] == ["Interrupted: stopped after step 3 of 8"] * 2
    found = Checkpoints(folder / "stopped" / "checkpoints").found()
    assert [path.name for path in found] == ["step-00000003"]
    assert notes[0]["stopped"]["useful_s"] == notes[1]["stopped"]["useful_s"] > 0  # of both together
    resumed = Recorder()
    pretrain(CONFIG, SPREAD, alone[2], run_context(folder / "stopped", resumed))
    assert_same_losses(notes[0]["stopped"]["reports"] + resumed.reports, alone[1])
    assert_close_weights(folder / "stopped", alone[0])


def test_a_loss_that_is_not_a_number_stops_all_processes_with_the_same_error(trained):
    first, second = (process["diverged"]["ended"] for process in trained[1])
    assert first == second
    assert first.startswith("DivergedError: step ") and "of 8: the loss is not finite: {'vtc': " in first


def test_a_batch_that_the_processes_cannot_share_is_refused(trained):
    for process in trained[1]:
        assert process["unshared"]["ended"] == (
            "SmaugError: batch_size: 4 is 1 groups of negatives_group = 4, which 2 processes cannot share;"
            " expected a number of processes that divides 1"
        )


def test_weights_that_do_not_fit_stop_all_processes_with_the_same_error(trained):
    first, second = (process["wrong weights"]["ended"] for process in trained[1])
    assert first == second and first.startswith("CheckpointError: ")


def test_unreadable_clips_are_counted_over_all_processes(trained):
    """Two clips are damaged, and each process met one of them or both, in some epoch."""
    folder, notes = trained
    for process in notes:
        found = process["tolerant"]["ended"]["unreadable"]
        assert sorted(Path(clip).name for clip in found) == ["000002.mp4", "000009.mp4"]
        assert process["strict"]["ended"] == notes[0]["strict"]["ended"]
        assert process["strict"]["ended"].startswith(
            "SmaugError: 2 of 18 clips and pictures could not be read, 1 allowed (max_unreadable = "
        )
        assert process["tolerant"]["ended"]["n_unreadable"] == 2
        assert all(
            f"{name}: not a readable video" in process["strict"]["ended"] for name in ("000002.mp4", "000009.mp4")
        )
    assert not (folder / "strict" / "model").exists()


def test_processes_that_find_different_checkpoints_do_not_train(trained):
    for process in trained[1]:
        assert "got newest checkpoints of steps [0, 3], by process" in process["apart"]


def fail_alone(rank: int, folder: Path) -> None:
    """One process fails without telling; the other waits for it in an exchange."""
    with joined_world("cpu") as world:
        try:
            if rank == 1:
                raise ZeroDivisionError
            world.collect(rank)
        except (ZeroDivisionError, RuntimeError) as error:
            (folder / f"{rank}").write_text(type(error).__name__)
            if rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            raise


def test_a_process_that_dies_does_not_leave_the_others_waiting(tmp_path):
    started = time.monotonic()
    with pytest.raises(Exception, match="SIGKILL|Connection closed|terminated"):
        run_together(2, fail_alone, tmp_path)
    assert time.monotonic() - started < 120  # the exchange itself would wait for half an hour


def prepare(rank: int, folder: Path) -> None:
    def work():
        time.sleep(1.0)
        (folder / "made").touch()
        return {"by": rank}

    def refuse():
        raise SmaugError("--out x: cannot be made")

    assert first_does("work", work) == {"by": 0}
    assert (folder / "made").exists()
    with pytest.raises(SmaugError, match="--out x: cannot be made"):
        first_does("refuse", refuse)
    (folder / f"done-{rank}").touch()
    with joined_world("cpu") as world:
        world.wait()


@pytest.mark.slow
def test_the_others_wait_for_what_the_first_does_and_meet_its_error(tmp_path):
    run_together(3, prepare, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["done-0", "done-1", "done-2", "made"]


def start_without_weights(rank: int, folder: Path) -> None:
    """Public weights are missing where process 1 runs."""
    with joined_world("cpu") as world:
        context = run_context(folder / "out", Recorder(), world=world)
        config = PRETRAIN if rank == 0 else replace(PRETRAIN, vision_weights=str(folder / "missing"))
        with pytest.raises(SmaugError, match="missing"):
            pretrain(CONFIG, config, [], context)
    (folder / f"done-{rank}").touch()


@pytest.mark.slow
def test_weights_that_one_process_lacks_are_an_error_in_all(tmp_path):
    run_together(2, start_without_weights, tmp_path)
    assert sorted(path.name for path in tmp_path.glob("done-*")) == ["done-0", "done-1"]


@pytest.mark.parametrize("given", [{}, {"RANK": "0"}])
def test_a_world_size_without_torchrun_is_refused(monkeypatch, given):
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"WORLD_SIZE": "2", **given}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SmaugError, match=r"WORLD_SIZE = 2, but .*MASTER_PORT is not set; start with torchrun"):
        with joined_world("cpu"):
            pass


def test_more_processes_than_gpus_are_refused_in_every_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    values = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(
        SmaugError, match="--device cuda: expected .*, got 2 processes on this machine, where torch finds 1 GPU"
    ):
        with joined_world("cuda"):
            pass


def test_shares_make_up_the_whole():
    for count, size in ((8, 4), (10, 3), (1, 2)):
        rows = [list(range(count))[World(rank=rank, size=size).share(count)] for rank in range(size)]
        assert sum(rows, []) == list(range(count))
