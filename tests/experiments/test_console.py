"""Text from outside is shown as it is, and commands nobody's terminal; what cannot be printed ends in one line."""

import dataclasses
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.cli import answers
from experiments.cli import status_view as overview
from experiments.cli.progress import ProgressDisplay
from experiments.console import Console, escaped, prepare_output, print_log
from experiments.maintenance.doctor.doctor import lines_of
from experiments.maintenance.doctor.finding import fault
from experiments.maintenance.status import Observer
from experiments.planning.budget import PriceComparison
from experiments.planning.plan import make_plan
from experiments.run import Drive
from experiments.scheduler.events import Event, Summary
from experiments.stages.trial import Trial
from experiments.store.attempt import read_attempts
from experiments.store.documents import write_json
from experiments.store.drivers import driver_at_work
from experiments.store.lookup import stage_labels
from experiments.store.store import Store
from experiments.store.trials import write_trial
from reports.analysis.build_tables import build_tables
from reports.paper.tables import load_published
from reports.render.terminal import to_terminal
from tests.documents import read_json
from tests.experiments.made_trials import execute, trial
from tests.experiments.smoke import ROOT, SWEEP
from tests.reports.rows import made_ranks, row

MARKUP = "[/pytorch/x.cc:12] boom [mask] [bold]b[/bold] [link=file:///x]y[/link] [red] :smile:"
HOSTILE = f"{MARKUP} \x1b[31mred\x1b]0;title\x07 \r\b\x00\x9b\u202e\ud800"
SHOWN = f"{MARKUP} \\x1b[31mred\\x1b]0;title\\x07 \\r\\x08\\x00\\x9b\\u202e\\ud800"


def hostile_trial() -> Trial:
    made = trial(pretrain={"refuse_at": 2})
    sweep = made.sweep.model_copy(update={"variants": {HOSTILE: {}}, "title": HOSTILE, "baseline": HOSTILE})
    return dataclasses.replace(made, sweep=sweep, variant=HOSTILE)


def printed(show: Callable[[Console], object], *, terminal: bool = False) -> str:
    text = io.StringIO()
    show(Console(file=text, width=1000, terminal=terminal))
    return text.getvalue()


@pytest.mark.parametrize("text", ["a\nb\tc", "Ärger ± 5 %", "漢字", "👩‍💻"])
def test_what_commands_nothing_stays(text):
    assert escaped(text) == text
    assert printed(lambda console: console.print(text)) == f"{text.expandtabs()}\n"


@pytest.mark.parametrize("terminal", [False, True])
def test_every_line_of_a_run_shows_hostile_names_and_messages(terminal):
    made = hostile_trial()
    first = made.stages[0]
    ended = ("cached", "done", "failed", "paused", "cancelled", "held", "blocked", "retry", "waiting")

    def show(console: Console) -> None:
        with ProgressDisplay(console, {first.fingerprint: HOSTILE}) as display:
            for kind in ended:
                display(Event(kind=kind, stage=first, message=HOSTILE))

    text = printed(show, terminal=terminal)
    assert text.count(SHOWN) == 2 * len(ended)
    assert "\x1b[31mred" not in text and "\x07" not in text


def test_bars_show_hostile_names():
    def show(console: Console) -> None:
        with console.bars() as bars:
            bars.show("key", HOSTILE, 1, 2, HOSTILE)

    text = printed(show, terminal=True)
    assert text.count(SHOWN) >= 2


def test_a_plan_and_an_end_show_hostile_names(tmp_path, capsys):
    made = hostile_trial()
    store = Store(tmp_path)
    plan, names = make_plan([made], store), stage_labels([made])
    assert printed(lambda console: answers.show_plan(plan, console, every_stage=True)).count(SHOWN) == 3
    first, second, third = made.stages
    summary = Summary(failed=[(first, HOSTILE)], cancelled=[(second, HOSTILE)], held=[(third, HOSTILE)], paused=HOSTILE)
    summary.interrupted = True
    comparison = PriceComparison(stages=1, predicted=1.0, actual=1.0, unit=HOSTILE)
    outcome = Drive(summary=summary, seconds=1.0, recorded=True, spent=0.0, comparison=comparison)
    answers.complain_of(outcome, store, names)
    assert capsys.readouterr().err.count(SHOWN) == 7
    assert SHOWN in printed(lambda console: answers.show_end(outcome, console))


def hostile_home(home: Path) -> Path:
    """A home with a stage that failed with a hostile message; gives the folder of its attempt."""
    made = hostile_trial()
    write_trial(home, made)
    execute(home, made, stages=1)
    (attempt,) = read_attempts(Store(home).directory(made.stages[0]))
    end = read_json(attempt.directory / "end.json")
    assert end is not None
    write_json(attempt.directory / "end.json", end | {"message": HOSTILE})
    return attempt.directory


def test_status_shows_hostile_rows_and_messages(tmp_path, smaug):
    hostile_home(tmp_path)
    code, out, _ = smaug("status")
    assert code == 0 and out.count(SHOWN) == 3  # the row, the name of the failed stage, its message
    with driver_at_work(tmp_path, [stage.fingerprint for stage in hostile_trial().stages]) as _:

        def stop(_: float) -> None:
            raise KeyboardInterrupt

        def follow(console: Console) -> None:
            with pytest.raises(KeyboardInterrupt):
                overview.follow(Observer(tmp_path), console, tmp_path, sleep=stop)

        assert SHOWN in printed(follow, terminal=True)


def test_logs_show_what_was_printed_and_obey_nothing(tmp_path, smaug):
    folder = hostile_home(tmp_path)
    (folder / "log.txt").write_text(f"1 %\r2 %\r\n{MARKUP} \x1b[31mred\n", newline="")
    code, out, err = smaug("logs", hostile_trial().stages[0].fingerprint)
    assert code == 0 and out.startswith(f"1 %\n2 %\n{MARKUP} \\x1b[31mred\n")
    assert SHOWN.replace("\\r", "\n") in out and MARKUP in err and "\x1b" not in out + err


def test_the_table_shows_hostile_rows_titles_and_notes():
    made = row(HOSTILE, hours=0.02, r1=20.0, baseline=HOSTILE, title=HOSTILE, device=HOSTILE, marks=(HOSTILE,))
    tables = build_tables({"4": load_published()["4"]}, [made], made_ranks)
    text = printed(lambda console: [to_terminal(table, console, {"4": SWEEP}) for table in tables])
    assert "[/pytorch/x.cc:12] boom [mask] [bold]b[/bold] [link=file:///x]y[/link] [red] :smile:" in text
    assert "\x1b" not in text and "\x07" not in text


def test_findings_and_wrapped_text_show_hostile_text():
    finding = fault(HOSTILE, HOSTILE, HOSTILE)
    for show in (lambda console: console.print(*lines_of(finding)), lambda c: c.print_wrapped(HOSTILE, indent=2)):
        assert SHOWN in printed(show)


@pytest.mark.parametrize(
    "arguments",
    [
        ["plan", SWEEP, "--only", HOSTILE],
        ["plan", SWEEP, "--set", HOSTILE],
        ["plan", HOSTILE],
        ["plan", SWEEP, "--scale", HOSTILE],
        ["plan", SWEEP, f"--{HOSTILE}"],
        [HOSTILE],
        ["logs", HOSTILE],
        ["finetune", "--out", "x", "--from", HOSTILE],
    ],
    ids=lambda arguments: " ".join(arguments)[:20],
)
def test_refusals_show_what_was_typed(smaug, arguments):
    code, out, err = smaug(*(argument.translate({0: None, 0xD800: None}) for argument in arguments))
    assert (code, out) == (2, "")
    assert "[/pytorch/x.cc:12] boom [mask] [bold]b[/bold]" in err and "\x1b" not in err and "\x07" not in err


def test_a_sweep_with_hostile_names_is_planned(tmp_path, smaug):
    file = tmp_path / "hostile.yaml"
    file.write_text((ROOT / SWEEP).read_text().replace('"10%"', f'"{MARKUP}"').replace("title: ", "title: '[/x]' #"))
    code, out, err = smaug("plan", str(file))
    assert (code, err) == (0, "") and out.count(MARKUP) == 3


def test_logs_print_text_that_begins_anywhere(capsys):
    print_log("half a line")
    print_log(" and its rest\r50 %\n")
    assert capsys.readouterr().out == "half a line and its rest\n50 %\n"


def test_wrapped_lines_have_no_spaces_at_their_ends():
    text = io.StringIO()
    Console(file=text, width=20).print_wrapped("some words that need more than one line")
    assert text.getvalue() == "some words that need\nmore than one line\n"


CLI = [sys.executable, "-c", "from experiments.cli.app import main; main()"]


def smaug_in(tmp_path: Path, *arguments: str, output: str | None = None, **env: str) -> "subprocess.CompletedProcess":
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "SMAUG_HOME": str(tmp_path / "home"), **env}
    with open(output, "w") if output else io.BytesIO() as file:
        stream = file if output else subprocess.PIPE
        return subprocess.run([*CLI, *arguments], stdout=stream, stderr=subprocess.PIPE, env=environment, cwd=tmp_path)


BUFFERING = pytest.mark.parametrize("buffering", [{}, {"PYTHONUNBUFFERED": "1"}], ids=["buffered", "unbuffered"])


@BUFFERING
@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["plan", str(ROOT / SWEEP)], ["plan", str(ROOT / SWEEP), "--json"], ["status"], ["status", "--json"]],
    ids=" ".join,
)
def test_a_full_output_is_one_line_and_a_failure(tmp_path, arguments, buffering):
    ran = smaug_in(tmp_path, *arguments, output="/dev/full", **buffering)
    assert ran.stderr == b"the output cannot be written (No space left on device)\n"
    assert ran.returncode == 1


@BUFFERING
def test_a_full_standard_error_is_a_failure_without_a_traceback(tmp_path, buffering):
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "SMAUG_HOME": str(tmp_path), **buffering}
    with open("/dev/full", "wb") as full:
        ran = subprocess.run([*CLI, "plan", "missing.yaml"], stdout=subprocess.PIPE, stderr=full, env=environment)
    assert (ran.returncode, ran.stdout) == (1, b"")


@BUFFERING
def test_a_reader_that_leaves_ends_it_quietly(tmp_path, buffering):
    for verb in (["plan", str(ROOT / SWEEP)], ["plan", str(ROOT / SWEEP), "--json"], ["--help"]):
        read, write = os.pipe()
        os.close(read)
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "SMAUG_HOME": str(tmp_path), **buffering}
        with open(write, "wb") as output:
            ran = subprocess.run([*CLI, *verb], stdout=output, stderr=subprocess.PIPE, env=environment)
        assert (ran.returncode, ran.stderr) == (1, b"")


@pytest.mark.parametrize("locale", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}])
def test_a_terminal_of_ascii_characters_shows_all_it_can(tmp_path, locale):
    file = tmp_path / "umlaut.yaml"
    file.write_text((ROOT / SWEEP).read_text().replace('"10%"', '"10 ± Ä"'), encoding="utf-8")
    ran = smaug_in(tmp_path, "plan", str(file), PYTHONCOERCECLOCALE="0", **locale)
    assert (ran.returncode, ran.stderr) == (0, b"")
    assert b"10 +/- \\xc4" in ran.stdout
    ran = smaug_in(tmp_path, "plan", str(file), "--only", "ö", PYTHONCOERCECLOCALE="0", **locale)
    assert ran.returncode == 2 and b"Traceback" not in ran.stderr


def test_a_stream_of_another_encoding_is_prepared(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    prepare_output()
    sys.stdout.write(json.dumps("é", ensure_ascii=False))
    sys.stdout.flush()
    assert raw.getvalue() == b'"\\xe9"'


def test_sweep_files_and_the_papers_numbers_are_read_where_the_locale_knows_ascii_only():
    code = (
        "from reports.paper.tables import load_published, sweep_files\n"
        "sweep_files()\nprint(ascii(list(load_published()['6'].rows)))"
    )
    env = {"PATH": os.environ["PATH"], "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, cwd=ROOT)
    assert (ran.returncode, ran.stderr) == (0, "") and r"4\u21922" in ran.stdout
