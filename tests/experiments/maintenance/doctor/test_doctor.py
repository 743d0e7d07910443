"""What `doctor` finds, from real faults: damaged media, a broken database, half-written stages, full disks."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from experiments.cli.app import main
from experiments.config.scale import Scale, load_scale
from experiments.maintenance.doctor import doctor, machine
from experiments.maintenance.doctor import home as inspection
from experiments.maintenance.doctor.contents import check_contents
from experiments.maintenance.doctor.finding import Finding, fault, fine, probe, warning
from experiments.planning.inputs import scale_stages
from experiments.planning.request import Request
from experiments.stages.trial import with_settings
from experiments.store.store import Store
from experiments.store.trials import write_trial
from experiments.tracking.location import FileSystem
from smaug_core.data.moving_shapes.dataset import SAMPLE
from smaug_core.data.prepare.rendering import render
from tests.experiments.made_trials import execute, trial
from tests.experiments.smoke import Smoke
from tests.faults import full_disk, read_only_disk


@pytest.fixture(scope="module")
def scale(tmp_path_factory) -> Scale:
    return load_scale(str(Smoke(tmp_path_factory.mktemp("scale")).scale))


@pytest.fixture(scope="module")
def rendered(scale, tmp_path_factory) -> Path:
    """A home with the data of the smallest scale."""
    home = tmp_path_factory.mktemp("rendered")
    render("sentence", scale.base_config().data, home / "data", workers=1)
    return home


@pytest.fixture
def home(rendered, tmp_path) -> Path:
    """A copy of it, to be broken."""
    shutil.copytree(rendered / "data", tmp_path / "data")
    return tmp_path


def levels(findings) -> list[str]:
    return [finding.level for finding in findings]


def check_data(scale: Scale, home: Path) -> Iterator[Finding]:
    return inspection.check_data(scale, home, scale_stages(scale, home / "data"))


def clips(home: Path, split: str) -> list[Path]:
    return sorted(home.glob(f"data/moving_shapes/sentence-*/clips/{split}/*.mp4"))


def test_whole_data_is_fine_and_data_that_is_not_rendered_no_fault(scale, rendered, tmp_path):
    (found,) = check_data(scale, rendered)
    assert found == fine("data moving_shapes/sentence", "57 files; a sample decodes as when rendered")
    (found,) = check_data(scale, tmp_path)
    assert found.level == "ok" and found.message.startswith("not rendered yet")


def test_a_truncated_clip_of_the_sample_is_found_and_named(scale, home):
    clip = clips(home, "train")[2]  # of 32, every second one is in the sample
    assert SAMPLE == 16
    clip.write_bytes(clip.read_bytes()[:-700])
    (found,) = check_data(scale, home)
    assert found.level == "fault" and f"train is damaged ({clip}: " in found.message
    assert found.fix.startswith(f"rm -r {clip.parents[2]}, then `smaug data")


def test_a_clip_that_is_another_than_when_rendered_is_found(scale, home):
    first, second = clips(home, "test")[:2]
    first.write_bytes(second.read_bytes())
    (found,) = check_data(scale, home)
    assert found.level == "fault" and "test is damaged (a sample decodes to" in found.message


def test_a_manifest_that_is_cut_is_found(scale, home):
    manifest = next(home.glob("data/moving_shapes/*/manifest.json"))
    manifest.write_text(manifest.read_text()[:100])
    (found,) = check_data(scale, home)
    assert found.level == "fault" and "is damaged (JSONDecodeError" in found.message


def test_real_media_are_checked_by_annotations_and_a_sample(rendered, tmp_path):
    paper, corpus = load_scale("paper"), tmp_path / "data" / "webvid"
    found = {finding.check: finding for finding in check_data(paper, tmp_path)}
    assert set(levels(found.values())) == {"fault"} and len(found) == 9
    sizes = "train (8,395 captions of 8,395 clips), test (1,004 captions of 1,004 clips)"
    assert found["data didemo"].message == f"not here: {sizes}"  # no stage reads val
    assert "or `smaug data prepare didemo --split train --from PATH`" in found["data didemo"].fix
    assert f"{corpus}/annotations/train.json" in found["data webvid"].fix
    (corpus / "annotations").mkdir(parents=True)
    (corpus / "media").mkdir()
    for clip in clips(rendered, "train")[:2]:
        shutil.copy(clip, corpus / "media")
    names = [path.name for path in sorted((corpus / "media").iterdir())]
    annotations = corpus / "annotations" / "train.json"
    annotations.write_text(json.dumps([{"video": name, "caption": "a ring"} for name in names]))

    def webvid() -> Finding:
        return next(f for f in check_data(paper, tmp_path) if f.check == "data webvid")

    assert webvid() == fine("data webvid", "2 captions of 2,490,000 published; 2 sampled files decode")
    (corpus / "media" / names[0]).unlink()
    assert webvid().level == "fault" and webvid().message == (
        f"1 of 2 sampled files cannot be read, the first: {corpus}/media/{names[0]}: no such file"
    )
    (corpus / "media" / names[1]).write_bytes(b"")
    assert webvid().message.startswith("2 of 2 sampled files cannot be read, the first: ")
    assert webvid().fix == "fetch these files again"
    annotations.write_text('[{"image": "x"}]')
    assert webvid().level == "fault" and "row 1 lacks 'video'" in webvid().message


def test_doctor_names_everything_that_a_plan_misses_and_where_it_belongs(tmp_path):
    paper, files = load_scale("paper"), sorted((Path(__file__).parents[4] / "sweeps").glob("*.yaml"))
    made, _ = Request(files=files, scale="paper", home=tmp_path).plan(None, None)
    assert len(made.problems) == 15  # a vocabulary, two weights, twelve splits
    findings = {finding.check: finding for finding in inspection.check_inputs(paper, tmp_path)}
    assert all(finding.level == "fault" for finding in findings.values())
    for problem in made.problems:
        name = problem.partition(":")[0]
        source, _, split = name.rpartition(" ")
        finding = findings.get(name) or findings[f"data {source}"]
        place = "vocab.txt" if name.startswith("tokenizer") else "model.safetensors"
        place = place if name in findings else f"{tmp_path}/data/{source}/annotations/{split}.json"
        assert place in finding.fix


def test_a_misfit_of_an_input_is_a_fault_and_not_a_traceback(tmp_path):
    scale = with_settings(load_scale("tiny"), {"model.tokenizer": str(tmp_path)})
    (found,) = inspection.check_inputs(scale, tmp_path)
    assert found.level == "fault" and f"{tmp_path}/vocab.txt cannot be read" in found.message
    (tmp_path / "vocab.txt").write_text("[PAD]")
    assert next(inspection.check_inputs(scale, tmp_path)) == fine("tokenizer", "is here")


def test_data_lists_what_is_missing_and_exits_1(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["data", "--scale", "paper", "--home", str(tmp_path)])
    out = capsys.readouterr().out
    assert ended.value.code == 1 and out.count("not here: ") == 9 and "9 of 9 data sets" in out
    assert f"{tmp_path}/data/msrvtt/annotations/test.json" in out and "complete\n" not in out


def test_a_broken_ledger_is_a_fault_with_the_way_out(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "mlflow.db").write_bytes(b"x" * 4096)
    (found,) = inspection.check_mlflow(tmp_path)
    assert found.level == "fault" and f"{tmp_path}/mlflow.db: cannot be read" in found.message
    assert found.fix.startswith("`smaug sync --rebuild`")


def test_a_ledger_on_a_network_file_system_is_a_fault_with_two_ways_out(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    mounts = [FileSystem(Path("/"), "ext4"), FileSystem(tmp_path, "nfs4")]
    (found,) = inspection.check_mlflow(tmp_path, mounts)
    assert found.level == "fault" and "network file system (nfs4 at" in found.message
    assert found.fix.startswith("use MLFLOW_TRACKING_URI=http://") and "local disk" in found.fix


def test_a_server_that_does_not_answer_is_a_fault(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    (found,) = inspection.check_mlflow(tmp_path)
    assert found.level == "fault" and "MLflow at http://127.0.0.1:9: " in found.message and "is up" in found.fix


def test_a_full_disk_and_one_that_takes_nothing_are_faults(scale, tmp_path):
    (found,) = inspection.check_disk(scale, tmp_path / "not" / "yet")
    assert found.level == "ok" and "the largest stage at scale smoke needs" in found.message
    with full_disk(8 * 1024) as disk:
        disk.fill()
        (found,) = inspection.check_disk(scale, disk.folder / "home")
        assert found.level == "fault" and found.message.startswith(f"0 bytes free at {disk.folder}, tmpfs; ")
        assert "`smaug gc`" in found.fix
    with read_only_disk() as folder:
        (found,) = inspection.check_disk(scale, folder)
        assert found == fault(
            "disk", f"{folder} may not be written to", "choose another --home, or change its permissions"
        )


def test_a_network_file_system_is_named(scale, tmp_path):
    (found,) = inspection.check_disk(scale, tmp_path, [FileSystem(Path("/"), "lustre")])
    assert found.level == "ok" and ", lustre over the network; " in found.message


def stages(home: Path) -> dict[str, Finding]:
    return {finding.check: finding for finding in inspection.check_stages(home)}


def test_a_store_without_faults_is_fine(tmp_path):
    write_trial(tmp_path, trial())
    execute(tmp_path, trial())
    assert list(stages(tmp_path).values()) == [
        fine("stages", f"3 in {tmp_path}, none damaged, none left by a process that died")
    ]


def test_damaged_stages_are_named_one_by_one(tmp_path):
    made = trial(pretrain={"checkpoint_every": 1})
    write_trial(tmp_path, made)
    execute(tmp_path, made)
    pretrain, finetune, evaluate = (Store(tmp_path).directory(stage) for stage in made.stages)
    (pretrain / "weights.json").unlink()
    (finetune / "attempts" / "0001" / "owner.json").unlink()
    (evaluate / "result.json").write_text('{"fingerprint": "')
    half = tmp_path / "store" / "pretrain" / "0123456789ab"
    half.mkdir()
    found = stages(tmp_path)
    assert len(found) == 4
    lacking = found[f"stage pretrain/{pretrain.name}"]
    assert lacking.level == "fault"
    assert lacking.message.startswith(f"{pretrain / 'weights.json'}: was changed after its stage was done")
    assert lacking.fix.endswith(f"rename the folder to {pretrain.name}.damaged; the next run then does the stage again")
    assert "owner.json: is missing" in found[f"stage finetune/{finetune.name}"].message
    assert "result.json: cannot be read" in found[f"stage evaluate/{evaluate.name}"].message
    assert found["stage pretrain/0123456789ab"].level == "warning"
    assert found["stage pretrain/0123456789ab"].message == f"{half}: expected a stage.json, got none"


def test_an_attempt_that_died_is_a_warning(tmp_path):
    made = trial()
    write_trial(tmp_path, made)
    execute(tmp_path, made, stages=1)
    folder = Store(tmp_path).directory(made.stages[0])
    (folder / "result.json").unlink()
    (folder / "attempts" / "0001" / "end.json").unlink()
    owner = folder / "attempts" / "0001" / "owner.json"
    owner.write_text(json.dumps(json.loads(owner.read_text()) | {"start_ticks": 1}))
    (found,) = stages(tmp_path).values()
    assert found.level == "warning" and "pretrain: attempt 1 died without a final record (process " in found.message
    assert found.fix == "the next run continues it"


def test_a_damaged_trial_is_named(tmp_path):
    path = write_trial(tmp_path, trial())
    path.write_text("[]")
    (found,) = stages(tmp_path).values()
    assert (found.check, found.level) == ("trials", "fault") and str(path) in found.message


def test_doctor_deep_finds_a_checkpoint_that_was_changed_or_has_no_digests(tmp_path):
    made = trial(pretrain={"checkpoint_every": 1, "fail_at": 3})
    write_trial(tmp_path, made)
    execute(tmp_path, made, stages=1)
    older, newer = sorted(Store(tmp_path).directory(made.stages[0]).glob("checkpoints/step-*"))
    digest = hashlib.sha256(b"weights").hexdigest()
    for checkpoint in (older, newer):
        (checkpoint / "model.safetensors").write_bytes(b"weights")
        (checkpoint / "state.json").write_text(json.dumps({"sha256": {"model.safetensors": digest}}))
    assert levels(check_contents(tmp_path)) == ["ok"]
    (newer / "model.safetensors").write_bytes(b"w3ights")
    (found,) = check_contents(tmp_path)
    assert found.level == "fault" and f"{newer}/model.safetensors: was changed: expected SHA-256" in found.message
    assert found.fix == f"rename {newer} to {newer.name}.damaged; the next run goes on from the one before"
    (newer / "model.safetensors").unlink()
    assert "cannot be read (No such file" in next(check_contents(tmp_path)).message
    (newer / "state.json").write_text("{")
    assert f"{newer}/state.json: cannot be read" in next(check_contents(tmp_path)).message


def test_a_probe_returns_the_last_line_or_the_reason_why_there_is_none():
    assert probe("print('noise'); print('{\"x\": 1}')") == {"x": 1}
    assert probe("import no_such_module") == "ModuleNotFoundError: No module named 'no_such_module'"
    assert probe("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)") == "killed by signal 11"
    assert probe("import time; time.sleep(60)", timeout_s=0.5) == "no answer within 0 s"
    assert probe("pass") == "exit code 0"
    assert probe("import json, os, sys; print(json.dumps({sys.argv[1]: os.environ['MINE']}))", "x", MINE="y") == {
        "x": "y"
    }


def test_the_decoder_writes_and_reads_a_clip():
    (found,) = machine.check_decoder()
    assert found.level == "ok" and "writes and reads H.264" in found.message


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"av": "18", "frames": 6, "difference": 2.0}, "ok"),
        ({"av": "18", "frames": 5, "difference": 255.0}, "fault"),
        ({"av": "18", "frames": 6, "difference": 90.0}, "fault"),
        ("av.error.EncoderNotFoundError: no codec", "fault"),
    ],
)
def test_a_decoder_that_gives_other_frames_is_a_fault(monkeypatch, answer, expected):
    monkeypatch.setattr(machine, "probe", lambda code: answer)
    assert levels(machine.check_decoder()) == [expected]


@pytest.mark.parametrize(
    ("answer", "present", "visible", "expected"),
    [
        ({"version": "2.13.0+cpu", "cuda": None, "gpus": 0, "torchvision": "0.28"}, [], 0, ["ok", "ok", "ok"]),
        ({"version": "2.13.0", "cuda": "13.0", "gpus": 2, "torchvision": "0.28"}, ["H200"] * 2, 2, ["ok", "ok", "ok"]),
        ({"version": "2.13.0+cpu", "cuda": None, "gpus": 0, "torchvision": "0.28"}, ["H200"], 1, ["ok", "ok", "fault"]),
        ({"version": "2.13.0", "cuda": "13.0", "gpus": 0, "torchvision": "0.28"}, ["H200"], 1, ["ok", "ok", "fault"]),
        ({"version": "2.13.0", "cuda": "13.0", "gpus": 0, "torchvision": "0.28"}, ["H200"], 0, ["ok", "ok", "ok"]),
        ({"version": "2.13.0+cpu", "cuda": None, "gpus": 0, "fault": "E: nms\nmore"}, [], 0, ["ok", "fault", "ok"]),
        ("ModuleNotFoundError: No module named 'torch'", [], 0, ["fault"]),
    ],
)
def test_torch_must_see_the_devices_that_the_driver_sees(monkeypatch, scale, answer, present, visible, expected):
    monkeypatch.setattr(machine, "probe", lambda code: answer)
    monkeypatch.setattr(machine, "gpu_names", lambda: present)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(visible))))
    assert levels(machine.check_torch(scale)) == expected


def test_a_scale_that_asks_for_more_than_there_is_is_a_fault(monkeypatch):
    answer = {"version": "2.13.0+cpu", "cuda": None, "gpus": 0, "torchvision": "0.28"}
    monkeypatch.setattr(machine, "probe", lambda code: answer)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    found = [finding for finding in machine.check_torch(load_scale("paper")) if finding.level == "fault"]
    assert len(found) == len({finding.message for finding in found}) >= 5
    assert any(
        "scale paper: resources.pretrain.gpus: 4 is more than one stage can have here" in f.message for f in found
    )


def test_loader_processes_need_shared_memory(scale, tmp_path):
    def levels(workers, folder):
        resources = scale.by_kind.model_copy(update={"finetune": scale.by_kind.finetune.model_copy(update=workers)})
        needing = scale.model_copy(update={"by_kind": resources})
        return [(finding.level, finding.message) for finding in machine.check_shared_memory(needing, folder)]

    ((level, message),) = levels({}, tmp_path)
    assert level == "ok" and "no loader processes" in message
    ((level, message),) = levels({"workers": 3}, tmp_path)
    assert level == "ok" and "loader processes of finetune" in message
    ((level, message),) = levels({"workers": 3}, tmp_path / "missing")
    assert level == "fault" and message.startswith("0 bytes free")


def test_gpus_are_listed_by_the_driver_s_own_tool(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.gpu_names() == []
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho NVIDIA H200\necho NVIDIA H200\n")
    tool.chmod(0o755)
    assert machine.gpu_names() == ["NVIDIA H200", "NVIDIA H200"]
    tool.write_text("#!/bin/sh\necho no driver\nexit 9\n")
    assert machine.gpu_names() == []


def test_packages_are_held_against_what_is_declared(monkeypatch):
    assert levels(machine.check_packages()) == ["ok"]
    real = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "2.61.0" if name == "ray" else real(name))
    (found,) = machine.check_packages()
    assert found.level == "fault" and found.message == "ray is 2.61.0, not <2.61,>=2.60"

    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    assert "torch is missing" in next(machine.check_packages()).message
    monkeypatch.setattr(metadata, "requires", missing)
    assert next(machine.check_packages()).level == "fault"


def test_an_old_python_is_a_fault(monkeypatch):
    assert levels(machine.check_python()) == ["ok"]
    monkeypatch.setattr(machine, "OLDEST_PYTHON", (4, 0))
    assert levels(machine.check_python()) == ["fault"]


@pytest.mark.parametrize(
    ("findings", "code"),
    [
        ([fine("a", "well")], 0),
        ([fine("a", "well"), warning("b", "slow", "wait")], 0),
        ([fault("c", "broken", "repair it"), fine("a", "well")], 1),
    ],
)
def test_only_faults_make_the_exit_code(monkeypatch, tmp_path, capsys, findings, code):
    monkeypatch.setenv("SMAUG_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(doctor, "examine", lambda home, scale, cluster, deep: iter(findings))
    for arguments in (["doctor"], ["doctor", "--json", "--scale", "paper"]):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == code
        out = capsys.readouterr().out
        if "--json" in arguments:
            assert [one["level"] for one in json.loads(out)] == levels(findings)
        elif code:
            assert out.startswith("FAULT   c: broken\n        fix: repair it\nok      a: well\n")
    assert not (tmp_path / "home").exists()
