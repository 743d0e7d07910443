"""A browser for each file of tests, an empty profile for each test. Mark such tests `browser`."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page

from tests.browser.axe import violations
from tests.browser.chromium import Watched, chromium

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
