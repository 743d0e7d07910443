"""Training on real files: resumed bit for bit, stopped when asked, and stopped when a loss is not a number."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace

import pytest
import torch
from safetensors.torch import load_file

from smaug_core.errors import CheckpointError, DivergedError, SmaugError
from smaug_core.model.smaug import SMAUG
from smaug_core.stage_protocol import Interrupted
from smaug_core.training import train as training
from smaug_core.training.train import finetune, pretrain
from tests.small import CONFIG, FINETUNE, PRETRAIN, SampleList, make_items, run_context


@dataclass
class Recorder:
    """A watch that keeps what it is told and asks to stop after a given step."""

    stop_after: int | None = None
    reports: list[tuple[int, int, dict[str, float]]] = field(default_factory=list)
    useful_s: float = 0.0

    def report(self, step, total, values):
        self.reports.append((step, total, dict(values)))

    def useful(self, seconds):
        self.useful_s = seconds

    def spent(self):
        return time.process_time()

    def stop_requested(self):
        return bool(self.reports) and self.reports[-1][0] == self.stop_after


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    return make_items(tmp_path_factory.mktemp("media"), clips=12, stills=6)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run(items, out, watch, config=PRETRAIN, model=CONFIG, seed=0):
    return pretrain(model, config, items, run_context(out, watch, seed=seed))


def weights(out):
    return load_file(out / "model" / "model.safetensors")


def identical(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_step_reads_no_tensor_before_all_its_work_is_queued(tmp_path, items, monkeypatch):
    """A GPU would be waited for: in mid-step it would run dry."""
    events = []

    def note(owner, name):
        plain = getattr(owner, name)

        def noted(*inputs, **more):
            events.append(name)
            return plain(*inputs, **more)

        monkeypatch.setattr(owner, name, noted)

    for name in ("tolist", "item", "cpu", "numpy", "nonzero", "__bool__", "__int__", "__float__", "__index__"):
        note(torch.Tensor, name)
    note(SMAUG, "forward")
    note(torch.optim.AdamW, "step")
    run(items, tmp_path, Recorder())
    starts = [place for place, name in enumerate(events) if name == "forward"]
    assert len(starts) == 8
    assert [events[start + 1] for start in starts] == ["step"] * 8
    assert events[starts[-1] :][:4] == ["forward", "step", "tolist", "tolist"]  # the losses; whether weights are finite


def test_unreadable_clips_met_before_an_interruption_are_in_the_result(tmp_path):
    """The clips are whole again when it goes on, so that only the checkpoint says that they were not."""
    (tmp_path / "media").mkdir()
    items = make_items(tmp_path / "media", clips=4, stills=4)
    bad, good = items[1].media.path, items[1].media.path.read_bytes()
    bad.write_bytes(b"no video")
    tolerant = replace(PRETRAIN, max_unreadable=1 / 8)
    straight = run(items, tmp_path / "straight", Recorder(), config=tolerant)
    assert straight.notes["n_unreadable"] == 1 and list(straight.notes["unreadable"]) == [str(bad)]
    with pytest.raises(Interrupted, match="after step 3 of 4"):
        run(items, tmp_path / "broken", Recorder(stop_after=3), config=tolerant)
    bad.write_bytes(good)
    resumed = run(items, tmp_path / "broken", Recorder(), config=tolerant)
    assert resumed.notes == straight.notes
    assert identical(weights(tmp_path / "straight"), weights(tmp_path / "broken"))


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_stopping_in_mid_epoch_and_going_on_gives_the_same_weights_bit_for_bit(tmp_path, items, dropout):
    model = replace(CONFIG, dropout=dropout)
    straight = Recorder()
    run(items, tmp_path / "straight", straight, model=model)
    steps = straight.reports[-1][1]
    assert steps == 8  # 12 clips and 6 pictures: 3 + 1 batches of 4, two epochs

    broken = tmp_path / "broken"
    with pytest.raises(Interrupted, match="after step 3 of 8"):
        run(items, broken, Recorder(stop_after=3), model=model)
    with pytest.raises(Interrupted, match="after step 6 of 8"):
        run(items, broken, Recorder(stop_after=6), model=model)
    last = Recorder()
    outcome = run(items, broken, last, model=model)
    assert [step for step, _, _ in last.reports] == [7, 8]
    assert identical(weights(tmp_path / "straight"), weights(broken))
    assert outcome.scratch == ["checkpoints"]

    # A kill between the end of the training and the record of it: the last steps are done again, to the same end.
    again = Recorder()
    run(items, broken, again, model=model)
    assert [step for step, _, _ in again.reports] == [7, 8]
    assert identical(weights(tmp_path / "straight"), weights(broken))


@pytest.mark.parametrize("changes", [{"mask_ratio": 0.0}, {"mlm_ratio": 0.0}, {"mask_ratio": 0.0, "mlm_ratio": 0.0}])
def test_a_training_that_leaves_parts_of_the_model_out_goes_on_too(tmp_path, items, changes):
    """The optimiser has no state for what no loss reaches."""
    config = replace(PRETRAIN, **changes)
    run(items, tmp_path / "straight", Recorder(), config=config)
    with pytest.raises(Interrupted):
        run(items, tmp_path / "broken", Recorder(stop_after=5), config=config)
    run(items, tmp_path / "broken", Recorder(), config=config)
    assert identical(weights(tmp_path / "straight"), weights(tmp_path / "broken"))


def test_a_stopped_fine_tuning_goes_on_bit_for_bit(tmp_path, items):
    run(items, tmp_path / "pre", Recorder())
    start, config = tmp_path / "pre" / "model", replace(FINETUNE, epochs=2)

    def tune(name, watch):
        return finetune(CONFIG, config, items, run_context(tmp_path / name, watch, weights=start))

    tune("straight", Recorder())
    with pytest.raises(Interrupted):
        tune("broken", Recorder(stop_after=3))
    tune("broken", Recorder())
    assert identical(weights(tmp_path / "straight"), weights(tmp_path / "broken"))


def test_weights_that_are_not_finite_are_never_a_finished_training(tmp_path, items):
    wild = replace(PRETRAIN, lr=1e38, min_lr=1e30, epochs=1, batch_size=12, negatives_group=4, warmup_epochs=0.0)
    with pytest.raises(DivergedError, match="step 1 of 1: .* weights are not finite"):
        run(SampleList(item for item in items if not item.is_image), tmp_path, Recorder(), config=wild)
    assert not (tmp_path / "model").exists()


def test_no_kind_of_media_is_left_out_silently(tmp_path, items):
    with pytest.raises(SmaugError, match=r"batch_size: 4 is more than there are pictures \(3\) or clips \(12\)"):
        run(items[:15], tmp_path, Recorder())


def test_useful_time_adds_up_over_attempts(tmp_path, items):
    first, second = Recorder(stop_after=4), Recorder()
    with pytest.raises(Interrupted):
        run(items, tmp_path, first)
    outcome = run(items, tmp_path, second)
    assert outcome.useful_s == second.useful_s > first.useful_s > 0


def test_two_runs_with_one_seed_are_equal_and_another_seed_differs(tmp_path, items):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(items, tmp_path / name, Recorder(), seed=seed)
    assert identical(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert not identical(weights(tmp_path / "a"), weights(tmp_path / "c"))


def test_finetuning_starts_from_the_weights_it_is_given(tmp_path, items):
    run(items, tmp_path / "pre", Recorder())
    still = replace(FINETUNE, lr=0.0, min_lr=0.0)
    weights_of_pre = tmp_path / "pre" / "model"
    finetune(CONFIG, still, items, run_context(tmp_path / "fine", Recorder(), weights=weights_of_pre))
    assert identical(weights(tmp_path / "pre"), weights(tmp_path / "fine"))


def test_finetuning_from_weights_of_another_model_is_refused(tmp_path, items):
    run(items, tmp_path / "pre", Recorder())
    other = replace(CONFIG, decoder_depth=1)
    with pytest.raises(CheckpointError, match="model.decoder_depth = 3, now 1"):
        finetune(other, FINETUNE, items, run_context(tmp_path / "fine", Recorder(), weights=tmp_path / "pre" / "model"))


def test_a_loss_that_is_not_a_number_stops_with_the_step_and_the_terms(tmp_path, items):
    wild = replace(PRETRAIN, lr=1e30, min_lr=1e30)
    with pytest.raises(
        DivergedError, match=r"step \d of 8: the loss is not finite: .*'vtc'.*checkpoint to resume from is none"
    ):
        run(items, tmp_path, Recorder(), config=wild)


def test_a_divergence_names_the_checkpoint_and_never_saves_one_of_its_own(tmp_path, items):
    with pytest.raises(Interrupted):
        run(items, tmp_path, Recorder(stop_after=3))
    good = tmp_path / "checkpoints" / "step-00000003"
    wild = replace(PRETRAIN, lr=1e39, min_lr=1e39)
    for stop_after in (None, 4):  # after step 4 the loss still was a number, and the weights no longer are
        with pytest.raises(DivergedError, match=rf"step \d of 8: .*the checkpoint to resume from is {good}$"):
            run(items, tmp_path, Recorder(stop_after=stop_after), config=wild)
        assert list((tmp_path / "checkpoints").iterdir()) == [good]
    run(items, tmp_path, Recorder())


@pytest.mark.slow
def test_a_kill_at_any_moment_loses_no_more_than_the_steps_since_the_last_checkpoint(tmp_path, items):
    """A real process, killed with SIGKILL while it writes a checkpoint after every step."""
    run(items, tmp_path / "straight", Recorder(), config=replace(PRETRAIN, epochs=6))
    code = (
        "import sys; from pathlib import Path; from dataclasses import replace\n"
        "import torch; torch.set_num_threads(1)\n"
        "from tests.small import PRETRAIN, make_items\n"
        "from tests.training.test_train import Recorder, run, training\n"
        "training.CHECKPOINT_EVERY_S = 0.0\n"
        "items = make_items(Path(sys.argv[1]) / 'media', clips=12, stills=6)\n"
        "run(items, Path(sys.argv[1]) / 'killed', Recorder(), config=replace(PRETRAIN, epochs=6))\n"
    )
    (tmp_path / "media").mkdir()
    for wanted in (3, 7):
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)], env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
        deadline = time.monotonic() + 120
        while not any(tmp_path.glob(f"killed/checkpoints/step-*{wanted}")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
    resumed = Recorder()
    media = make_items(tmp_path / "media", clips=12, stills=6)
    run(media, tmp_path / "killed", resumed, config=replace(PRETRAIN, epochs=6))
    # the clips lie in another folder, so their media numbers differ; nothing else may
    run(media, tmp_path / "again", Recorder(), config=replace(PRETRAIN, epochs=6))
    assert identical(weights(tmp_path / "again"), weights(tmp_path / "killed"))
    assert resumed.reports[0][0] >= 7
    assert training.CHECKPOINT_EVERY_S == 60.0


def test_a_corpus_without_words_to_hide_still_trains(tmp_path, items):
    outcome = run(items, tmp_path, Recorder(), config=replace(PRETRAIN, mlm_ratio=0.0, mask_ratio=0.0))
    assert set(outcome.metrics) == {"train.vtc", "train.vtm", "train.loss"}
