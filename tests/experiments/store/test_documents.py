"""Every document of a home is damaged key by key: what reads it works, or names the file; and nothing is lost."""

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from experiments.cli.status_view import lines_of
from experiments.engines.slurm.job import EXIT_RECORD, JOB, SAVED
from experiments.engines.slurm.submissions import SUBMITTED, exit_file, new_folder, read_submission, reason_to_keep
from experiments.maintenance import logs
from experiments.maintenance.doctor.contents import check_contents
from experiments.maintenance.doctor.home import check_stages
from experiments.maintenance.gc import find_garbage
from experiments.maintenance.status import Observer
from experiments.planning.cost_model import read_rate
from experiments.planning.plan import make_plan
from experiments.stages.trial import Trial
from experiments.store.attempt import ACCOUNTING, Lease, claim, read_attempts, record_failure
from experiments.store.attempt_files import ACCOUNTED, END, FAILED, OWNER, PROGRESS
from experiments.store.documents import (
    EVALUATION,
    PREDICTED,
    RESULT,
    STAGE,
    TRIAL,
    Shape,
    StageDocument,
    read_document,
    write_json,
)
from experiments.store.drivers import DRIVER, driver_at_work, living
from experiments.store.export import RecordedStage
from experiments.store.failures import Failure
from experiments.store.lookup import Catalog
from experiments.store.store import Store, all_stages
from experiments.store.trials import trial_documents, trial_record, write_trial
from experiments.tracking.run_content import run_of_stage, run_of_trial
from experiments.worker.device import DeviceClock
from experiments.worker.launcher import RANK, LaunchConfig, node_reports
from experiments.worker.main import run_stage
from experiments.worker.outcome import Ending
from experiments.worker.reporter import StageWatch
from experiments.worker.signals import StopFlag
from smaug_core.errors import SmaugError
from smaug_core.files import StoredDocument, check
from smaug_core.stage_protocol import Outcome
from tests.documents import read_json
from tests.experiments.finished import HOST
from tests.experiments.made_trials import execute, trial
from tests.quick_stage import quick_stage

ROOT = Path(__file__).resolve().parents[3]


@dataclasses.dataclass(frozen=True)
class Home:
    """A home in use: one trial is done, one was interrupted, one runs, and there are jobs in Slurm."""

    folder: Path
    trials: tuple[Trial, Trial, Trial]

    @property
    def store(self) -> Store:
        return Store(self.folder)

    def stage(self, number: int, place: int = 0) -> Path:
        return self.store.directory(self.trials[number].stages[place])

    def content(self) -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in self.folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    folder = tmp_path_factory.mktemp("home").resolve()
    made = Home(folder, (trial("50%"), trial("10%", pretrain={"checkpoint_every": 1}), trial("65%")))
    for each in made.trials:
        write_trial(folder, each)
    assert execute(folder, made.trials[0]) == [0, 0, 0]
    stopped = StopFlag()
    stopped.set()
    directory = made.store.prepare(made.trials[1].stages[0])
    run_stage(directory, data_root=folder / "data", device="cpu", stop=stopped)
    record_failure(directory / "attempts" / "0001", Failure(kind="preempted", cause="the node went"), "resumed")
    told = {"source": "sacct", "state": "FAILED", "start": 1.0, "end": 2.0, "cpu_s": 1.0, "time": 2.0}
    write_json(directory / "attempts" / "0001" / ACCOUNTING, told)
    write_json(directory / "prediction.json", {"hours": 1.0, "unit": "CPU h", "source": "probe", "time": 1.0})
    made.store.prepare(made.trials[1].stages[1])
    record_failure(made.stage(1, 1), Failure(kind="user_error", cause="no Python there"), "not tried again")
    _running(made)
    _slurm(folder, made.trials[2].stages[0].fingerprint)
    probed = StageDocument.of(made.trials[2].stages[0].document())
    rate = folder / "probes" / "cpu-widthNone" / "rate.json"
    rate.parent.mkdir(parents=True)
    write_json(rate, {"macs_per_hour": 1e12, "steps": 20, "seconds": 1.0, "time": 1.0} | HOST)
    assert read_rate(made.store, probed) is not None
    with driver_at_work(folder, [stage.fingerprint for stage in made.trials[2].stages]):
        yield made


def _running(home: Home) -> None:
    lease = claim(home.store.prepare(home.trials[2].stages[0]), HOST | {"slurm": {"job": "7_1", "restart": 0}})
    clock = DeviceClock(0)
    with StageWatch(lease, clock, StopFlag()) as watch:
        watch.report(1, 3, {"loss": 1.0})
        watch.report(2, 3, {"loss": 0.5})
        watch.write()
    (lease.stage_directory / "checkpoints" / "step-00000001").mkdir(parents=True)
    (lease.stage_directory / "checkpoints" / "step-00000001" / "state.json").write_text('{"sha256": {}}')
    launch = LaunchConfig(
        processes=2, gpus=0, threads=1, host="h", port=4000, data_root="d", device="cpu", start=clock.start
    )
    write_json(lease.directory / "crew.json", dataclasses.asdict(launch))
    for name in ("ranks", "nodes"):
        (lease.directory / name).mkdir()
    end = {"time": 1.0, "ending": dataclasses.asdict(Ending(0, "done")), "bereft": False}
    outcome = dataclasses.asdict(Outcome(metrics={"train.loss": 1.0}, useful_s=1.0))
    write_json(lease.directory / "ranks" / "0.json", {"pid": 1, "node": 0, "end": end, "outcome": outcome})
    write_json(lease.directory / "nodes" / "1.json", {"cpu_s": 1.0, "joules": 2.0, "ended": 0})


def _slurm(home: Path, name: str) -> None:
    folder = new_folder(home / "slurm", "mine", "smaug-1")
    write_json(folder / "jobs" / f"{name[:12]}.json", {"name": name, "command": ["python"], "env": {"A": "b"}})
    write_json(folder / "placed-000001.json", {name: "7_1"})
    write_json(exit_file(folder, "7_1", name), {"exit_code": 0, "reason": None, "time": 1.0, "restart": 0})
    (folder / "saved").mkdir()
    write_json(folder / "saved" / "7_1.json", {"step": 3})


def readers(home: Home) -> dict[str, Callable[[], object]]:
    """Whatever reads a home, by name; each gives all that it found as text."""
    folder, store = home.folder, home.store

    def look() -> object:
        standing = Observer(folder).poll()
        return [*lines_of(standing), json.dumps([trial.to_json() for trial in standing.trials])]

    def plan() -> object:
        return json.dumps(make_plan(home.trials, store).to_json())

    def log() -> object:
        return [
            (logs.heading(found), found.ending(), found.to_json())
            for directory in map(Catalog(folder).directory, Catalog(folder).stages.values())
            if (found := logs.read_log(directory)).attempt is not None
        ]

    def facts() -> object:
        trials = [trial_record(folder, document) for document in trial_documents(folder)]
        told = [run_of_trial(each, {}, "1", driven=False, valid=True) for each in trials]
        told += [run_of_stage(each) for each in all_stages(folder)]
        return [(each.digest, each.curve()) for each in told]

    def slurm() -> object:
        return [
            (reason_to_keep(each, 0.0), read_submission(each), living(folder)) for each in (folder / "slurm").iterdir()
        ]

    def attempts() -> object:
        lease = Lease(home.stage(2), 1).directory
        notes = [read_document(path, RANK) for path in (lease / "ranks").iterdir()]
        saved = [read_document(path, SAVED) for path in (folder / "slurm").glob("*/saved/*.json")]
        words = [read_document(path, EXIT_RECORD) for path in (folder / "slurm").glob("*/ended/*.json")]
        return [LaunchConfig.read(lease), *node_reports(lease), notes, saved, words]

    return {
        "status": look,
        "plan": plan,
        "logs": log,
        "gc": lambda: [[str(kept) for kept in find_garbage(folder).kept], find_garbage(folder).garbage],
        "doctor": lambda: [str(finding) for finding in check_stages(folder)],
        "ledger": facts,
        "slurm": slurm,
        "attempts": attempts,
        "rate": lambda: read_rate(store, StageDocument.of(home.trials[2].stages[0].document())),
    }


def claims(home: Home) -> None:
    """Take the stages that are not done, and give them back."""
    for number in (1, 2):
        with suppress(SmaugError):
            shutil.rmtree(claim(home.stage(number), HOST).directory)


MISSING = object()
WRONG: tuple[Any, ...] = (MISSING, None, [], {}, "", "x", True, -1, 10**400, 1e400, "\x00")
BROKEN = (b"", b"{}", b"[]", b"null", b"7", b'"x"', b"[" * 100_000, b"\xff\xfe", b"\x00" * 64, b"9" * 5000)


def damages(content: bytes, thorough: bool) -> Iterator[bytes]:
    """A document as it may be found: not written, cut off, and with each key (or every other) missing or wrong."""
    yield from (*(BROKEN if thorough else BROKEN[:3]), content[: len(content) // 2])
    document = json.loads(content)
    for place, path in enumerate(list(_paths(document))[:: 1 if thorough else 2]):
        for value in WRONG if thorough else [WRONG[place % len(WRONG)]]:
            yield _changed(document, path, value)


def _paths(value: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every key, at any depth; of objects and lists with many alike, the first three."""
    keys: list[Any] = list(value) if isinstance(value, dict) else list(range(len(value)))
    many = len(keys) > 3 and len({type(value[key]) for key in keys}) == 1
    for key in keys[:3] if many else keys:
        yield (*before, key)
        if isinstance(value[key], dict | list):
            yield from _paths(value[key], (*before, key))


def _changed(document: Any, path: tuple[Any, ...], value: Any) -> bytes:
    made = json.loads(json.dumps(document))
    held = made
    for key in path[:-1]:
        held = held[key]
    if value is MISSING:
        del held[path[-1]]
    else:
        held[path[-1]] = value
    return json.dumps(made).encode()


Document = Callable[[Home], Iterator[Path]]


def _of(pattern: str, number: int | None = None, place: int = 0) -> Document:
    """Documents in the home folder, or in that of a trial's stage."""
    return lambda home: (home.folder if number is None else home.stage(number, place)).glob(pattern)


DOCUMENTS = {
    "trial": _of("trials/*/*.json"),
    "driver": _of("drivers/*.json"),
    "stage that is done": _of("stage.json", 0),
    "stage with a checkpoint": _of("stage.json", 1),
    "result": _of("result.json", 0),
    "evaluation": _of("result.json", 0, 2),
    "ranks": _of("ranks.json", 0, 2),
    "owner": _of("attempts/0001/owner.json", 1),
    "owner of a process that lives": _of("attempts/0001/owner.json", 2),
    "progress": _of("attempts/0001/progress.json", 1),
    "progress of a process that lives": _of("attempts/0001/progress.json", 2),
    "end": _of("attempts/0001/end.json", 1),
    "failure": _of("attempts/0001/failure.json", 1),
    "accounting": _of("attempts/0001/accounting.json", 1),
    "early failure": _of("failure.json", 1, 1),
    "prediction": _of("prediction.json", 1),
    "launch": _of("attempts/0001/crew.json", 2),
    "rank": _of("attempts/0001/ranks/0.json", 2),
    "node": _of("attempts/0001/nodes/1.json", 2),
    "rate": _of("probes/*/rate.json"),
    "job": _of("slurm/*/jobs/*.json"),
    "placed": _of("slurm/*/placed-*.json"),
    "submission": _of("slurm/*/slurm.json"),
    "word": _of("slurm/*/ended/*.json"),
    "saved": _of("slurm/*/saved/*.json"),
}


def fuzz(home: Home, path: Path, monkeypatch: pytest.MonkeyPatch, *, thorough: bool) -> int:
    """Damage a document in all ways, and have it read each time; gives how often a reader named the file."""
    whole, others, num_named = path.read_bytes(), home.content(), 0
    del others[path]
    concerned = [read for read in readers(home).values() if reads(read, path, monkeypatch)]
    assert concerned
    try:
        for number, content in enumerate(damages(whole, thorough)):
            path.write_bytes(content)
            for read in concerned if thorough else [concerned[number % len(concerned)]]:
                try:
                    found = str(read())
                except SmaugError as error:
                    found = str(error)
                    assert str(path) in found and "delete" not in found, content
                num_named += str(path) in found
            claims(home)
            assert path.exists(), content
    finally:
        path.write_bytes(whole)
    assert others.items() <= home.content().items(), "something was changed or deleted"
    return num_named


def reads(read: Callable[[], object], path: Path, monkeypatch: pytest.MonkeyPatch) -> bool:
    opened: set[Path] = set()
    read_bytes = Path.read_bytes

    def noted(self: Path) -> bytes:
        opened.add(self)
        return read_bytes(self)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", noted)
        read()
    return path in opened


@pytest.fixture(autouse=True)
def code_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes longer than the whole home."""
    monkeypatch.setattr("experiments.planning.plan.code_digest", lambda kind: {})


@pytest.mark.parametrize("which", DOCUMENTS)
def test_a_damaged_document_is_named_by_what_reads_it_and_nothing_is_lost(
    home: Home, which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = next(DOCUMENTS[which](home))
    named = fuzz(home, path, monkeypatch, thorough=False)
    assert named or path.name == "progress.json"


@pytest.mark.nightly
@pytest.mark.parametrize("which", DOCUMENTS)
def test_every_key_of_a_damaged_document_may_be_anything(
    home: Home, which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in DOCUMENTS[which](home):
        fuzz(home, path, monkeypatch, thorough=True)


def test_an_attempt_without_its_progress_is_estimated_from_its_curve_and_goes_on_from_its_checkpoint(
    tmp_path: Path,
) -> None:
    """What a power failure leaves of the file that is replaced every second."""
    stage = quick_stage(steps=4, checkpoint_every=2, kill_at=4)
    store = Store(tmp_path)
    directory = store.prepare(stage)
    command = [sys.executable, "-m", "experiments.worker", str(directory)]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == -signal.SIGKILL
    progress = directory / "attempts" / "0001" / "progress.json"
    known = read_attempts(directory)[0]
    for damage in (b"", b"{}", None):
        progress.unlink() if damage is None else progress.write_bytes(damage)
        (attempt,) = read_attempts(directory)
        assert attempt.state == "dead" and str(progress) in attempt.fault
        assert attempt.progress.step == 3 and attempt.progress.spent_s > 0.0
        assert attempt.progress.wall_s <= known.progress.wall_s + 1.0
        assert store.record(stage).hours.estimated and store.record(stage).state == "resume"
        assert any(str(progress) in finding.message for finding in check_stages(tmp_path))
    assert run_stage(directory, data_root=tmp_path, device="cpu", stop=StopFlag()) == 0
    assert (directory / "trail.txt").read_text().split() == ["1", "2", "3", "3", "4"]


def test_a_damaged_stage_json_is_written_again_by_the_next_run(home: Home) -> None:
    path = home.stage(1) / "stage.json"
    whole = path.read_bytes()
    for content in (b"", b"{}", whole.replace(b'"steps": 3', b'"steps": 4')):
        path.write_bytes(content)
        home.store.prepare(home.trials[1].stages[0])
        assert path.read_bytes() == whole


def test_a_file_that_was_renamed_as_advised_is_read_by_nothing(home: Home) -> None:
    for which in ("driver", "end", "failure", "prediction", "trial", "result"):
        path = next(DOCUMENTS[which](home))
        whole = path.read_bytes()
        path.rename(path.with_name(f"{path.name}.damaged")).write_bytes(b"{}")
        for read in readers(home).values():
            read()
        path.with_name(f"{path.name}.damaged").unlink()
        path.write_bytes(whole)


def test_a_published_file_of_another_size_is_a_problem_of_the_plan_and_is_not_run_over(home: Home) -> None:
    weights = home.stage(0) / "weights.json"
    whole, content = weights.read_bytes(), home.content()
    for damage in (b"", whole + b"\n", None):
        weights.unlink() if damage is None else weights.write_bytes(damage)
        plan = make_plan(home.trials, home.store)
        assert plan.stages[0].state == "unreadable" and plan.stages[1].is_done
        (problem,) = plan.problems
        assert problem.startswith(f"{weights}: was changed after its stage was done: expected {len(whole)} bytes, got")
        assert "rename the folder to" in problem and "delete" not in problem
        assert Observer(home.folder).poll().stages[home.trials[0].stages[0].fingerprint].message == problem
        weights.write_bytes(whole)
    assert make_plan(home.trials, home.store).problems == []
    assert home.content() == content


def test_results_without_sizes_stay_valid_and_an_edited_stage_json_is_named(home: Home) -> None:
    result, stage = home.stage(0) / "result.json", home.stage(0) / "stage.json"
    whole, asked = result.read_bytes(), stage.read_bytes()
    older = json.loads(whole)
    del older["sizes"]
    result.write_text(json.dumps(older))
    assert make_plan(home.trials, home.store).problems == []
    stage.write_bytes(asked.replace(b'"steps": 3', b'"steps": 4'))
    (problem,) = make_plan(home.trials, home.store).problems
    assert problem.startswith(f"{stage}: was edited")
    stage.unlink()  # as renamed: the run writes it again
    assert make_plan(home.trials, home.store).problems == []
    home.store.restore(home.trials[0].stages[0])
    assert stage.read_bytes() == asked
    result.write_bytes(whole)


def test_doctor_deep_reads_what_has_the_right_size_and_another_content(home: Home) -> None:
    (whole,) = check_contents(home.folder)
    assert whole.level == "ok" and whole.message.endswith("hold what they were recorded with")
    weights, ranks = home.stage(0) / "weights.json", home.stage(0, 2) / "ranks.json"
    before = {path: path.read_bytes() for path in (weights, ranks)}
    for path, content in before.items():
        path.write_bytes(b"?" + content[1:])
    assert make_plan(home.trials, home.store).problems == []
    found = {finding.check: finding.message for finding in check_contents(home.folder) if finding.level == "fault"}
    assert sum("was changed: expected SHA-256" in what for what in found.values()) == 2
    for path, content in before.items():
        path.write_bytes(content)


TYPED: dict[str, Shape[Any]] = {
    "trial": TRIAL,
    "driver": DRIVER,
    "stage that is done": STAGE,
    "result": RESULT,
    "evaluation": EVALUATION,
    "owner": OWNER,
    "owner of a process that lives": OWNER,
    "progress": PROGRESS,
    "end": END,
    "failure": FAILED,
    "early failure": FAILED,
    "accounting": ACCOUNTED,
    "prediction": PREDICTED,
    "job": JOB,
    "submission": SUBMITTED,
    "word": EXIT_RECORD,
    "saved": SAVED,
}


@pytest.mark.parametrize("which", TYPED)
def test_a_typed_document_has_every_key_as_an_attribute_and_keeps_unknown_ones(
    home: Home, which: str, tmp_path: Path
) -> None:
    written = read_json(next(DOCUMENTS[which](home))) | {"of a newer version": [1]}
    write_json(tmp_path / "document.json", written)
    document = read_document(tmp_path / "document.json", TYPED[which])
    assert document is not None and document.raw == written
    compare(document, written)


def compare(document: StoredDocument, written: dict[str, Any]) -> None:
    """Compare every attribute with its key; nested documents too."""
    for each in dataclasses.fields(document):
        name = each.metadata.get("name") or each.name
        if each.name == "raw" or name not in written:
            continue
        value, expected = getattr(document, each.name), written[name]
        if isinstance(value, StoredDocument):
            compare(value, expected)
        elif isinstance(value, tuple):
            assert len(value) == len(expected)
            for one, other in zip(value, expected, strict=True):
                compare(one, other)
        else:
            assert value == expected, each.name


def test_a_portable_record_reads_the_same_documents(tmp_path: Path) -> None:
    """They leave out what is of one machine only; all else has the classes of the home folder."""
    for path in sorted((ROOT / "reports" / "measurements" / "tiny" / "stages").rglob("*.json"))[:20]:
        body = read_json(path)
        check(body, RecordedStage.form())
        recorded = RecordedStage.of(body)
        compare(recorded, body)
        assert all(attempt.owner.boot == "" and attempt.owner.pid == 0 for attempt in recorded.attempts)
