"""A browser for each file of tests, an empty profile for each test. Mark such tests `browser`."""

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Page

from tests.browser.axe import violations
from tests.browser.chromium import Watched, chromium


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
