"""Times the reports: tables of many recorded runs, and the page of the reference.

    python -m tests.benchmarks.reports --json reports.json

Prints what was measured beside the aim. A page is interactive when the browser has run its script and painted; without
Chromium (make test-tools) that is not measured. About two minutes on two cores; nothing else should run.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from experiments.tracking.source import REFERENCE
from experiments.tracking.sync import sync
from tests.benchmarks.many_runs import multiply
from tests.benchmarks.orchestration import ROOT, described_machine, say
from tests.browser.chromium import program

REPORT = [sys.executable, "-m", "experiments.cli", "report"]
RUNS = 10_000
Finding = dict[str, str | float]


def main() -> None:
    """Measure, print, and write the findings to a file if one is named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the findings to this file")
    options = parser.parse_args()
    findings = []
    say("what", "measured", "aim")
    with tempfile.TemporaryDirectory(prefix="reports-") as folder:
        home = Path(folder) / "home"
        sync(home, records=REFERENCE)
        for finding in (*_tables(home, options.runs, options.repeats), *_page(home, options.repeats)):
            findings.append(finding)
            say(str(finding["what"]), f"{finding['value']:.3g} {finding['unit']}", str(finding["aim"]))
    if options.json:
        document = described_machine() | {"runs": options.runs, "repeats": options.repeats, "findings": findings}
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _tables(home: Path, runs: int, repeats: int) -> Iterator[Finding]:
    for name, stages in (("mixed", True), ("trials", False)):
        copy = home.parent / name
        trials = multiply(home, copy, runs, stages=stages)
        taken = _median(partial(_run, "tables", copy), repeats)
        what = f"report tables, {runs} runs in SQLite, {trials} of them trials, start-up included"
        yield {"what": what, "value": taken, "unit": "s", "aim": "under 10 s" if stages else ""}


def _page(home: Path, repeats: int) -> Iterator[Finding]:
    taken = _median(partial(_run, "page", home), repeats)
    path = home / "out" / "index.html"
    yield {"what": "report page, the reference, start-up included", "value": taken, "unit": "s", "aim": ""}
    yield {"what": "its size", "value": path.stat().st_size / 1e6, "unit": "MB", "aim": "under 2 MB"}
    if program() is not None:
        ready = _median(partial(_interactive, path), repeats)
        yield {"what": "its start in Chromium until interactive", "value": ready, "unit": "s", "aim": "under 1 s"}


def _interactive(path: Path) -> float:
    """Seconds from the request until the script has run and a frame was painted after it, by the browser's clock."""
    from tests.browser.chromium import chromium

    with chromium() as browser, browser.new_context() as context:
        page = context.new_page()
        page.goto(path.as_uri())
        painted = "() => new Promise(done => requestAnimationFrame(() => setTimeout(() => done(performance.now()))))"
        return float(page.evaluate(painted)) / 1000


def _run(verb: str, home: Path) -> None:
    command = [*REPORT, verb, "--home", str(home), "--out", str(home / "out")]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def _median(measure: Callable[[], float | None], repeats: int) -> float:
    """Of what it gives, else of the seconds that it takes."""
    found = []
    for _ in range(repeats):
        started = time.perf_counter()
        told = measure()
        found.append(time.perf_counter() - started if told is None else told)
    return statistics.median(found)


if __name__ == "__main__":
    main()
