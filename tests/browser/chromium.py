"""A real Chromium without a screen: its start, and what its pages must not do."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # whoever asks for another host fails at once
)
"""Playwright adds `--headless` and `--no-sandbox`."""
HERE = "127.0.0.1"


def program() -> str | None:
    """Where Chromium is; none if it is not installed."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def chromium() -> Iterator[Browser]:
    """One browser; every context made of it has a new, empty profile. Skips the test where there is none."""
    path = program()
    if path is None:
        pytest.skip("Chromium is not installed: make test-tools")
    # Playwright keeps an event loop running in this thread until it ends: no test outside may find it there.
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(OPTIONS), headless=True)
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Watched:
    """What the pages of a profile did since it was made."""

    errors: list[str] = field(default_factory=list)
    """What the console called an error, and exceptions that nobody caught."""
    outside: list[str] = field(default_factory=list)
    """Addresses that were asked for at other hosts than 127.0.0.1."""

    def watch(self, context: BrowserContext) -> None:
        """Note all that happens from now on."""
        context.on("console", self._console)
        context.on("weberror", lambda error: self.errors.append(str(error.error)))
        context.on("request", lambda request: self._request(request.url))
        context.on("page", lambda page: page.on("websocket", lambda socket: self._request(socket.url)))

    def assert_quiet(self) -> None:
        """Fail if there was an error, or a request to another host."""
        assert (self.errors, self.outside) == ([], [])

    def _console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.errors.append(f"{message.text} ({message.location['url']})")

    def _request(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme in ("http", "https", "ws", "wss") and parts.hostname != HERE:
            self.outside.append(url)
