"""A browser for each file of tests, an empty profile for each test. Mark such tests `browser`."""

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page

from experiments.tracking.sync import sync
from tests.browser.axe import violations
from tests.browser.chromium import Watched, chromium
from tests.mlflow_servers import free_port

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "reports" / "measurements" / "tiny"
LARGEST = 200_000
"""Bytes of a picture: they are committed."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for a file of tests."""
    with chromium() as started:
        yield started


@pytest.fixture
def watched() -> Watched:
    """What the test's pages did: `watched.assert_quiet()`."""
    return Watched()


@pytest.fixture
def context(browser: Browser, watched: Watched) -> Iterator[BrowserContext]:
    """A new profile in which everything is watched."""
    with browser.new_context(viewport={"width": 1280, "height": 900}) as made:
        watched.watch(made)
        yield made


@pytest.fixture
def page(context: BrowserContext) -> Page:
    """An empty tab; `page.goto(path.as_uri())`."""
    return context.new_page()


@pytest.fixture
def axe() -> Callable[[Page], list[str]]:
    """`axe(page)`: every rule of accessibility that the page breaks."""
    return violations


@pytest.fixture
def picture(tmp_path: Path) -> Callable[[Page, str], Path]:
    """`picture(page, name)`: what the window shows, as NAME.png; in docs/images/ for `make screenshots`."""

    def taken(page: Page, name: str) -> Path:
        path = Path(os.environ.get("SMAUG_SCREENSHOTS") or tmp_path) / f"{name}.png"
        page.screenshot(path=path, animations="disabled", caret="hide")
        assert 5_000 < path.stat().st_size < LARGEST, f"{path} has {path.stat().st_size} bytes"
        return path

    return taken


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder that holds the committed measurements."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        sync(home, records=REFERENCE)
    return home


@pytest.fixture(scope="session")
def address(reference: Path) -> Iterator[str]:
    """Where `smaug ui` shows them."""
    port = free_port()
    environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    command = [sys.executable, "-m", "experiments.cli", "ui", "--port", str(port), "--home", str(reference)]
    with (reference / "ui.log").open("wb") as log:
        server = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        give_up = time.monotonic() + 240
        while not _answers(f"http://127.0.0.1:{port}/health"):
            assert server.poll() is None and time.monotonic() < give_up, (reference / "ui.log").read_text()
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
