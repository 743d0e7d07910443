"""Accessibility of a page, judged by axe-core."""

import json
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

SOURCE = Path(__file__).parent / "node_modules" / "axe-core" / "axe.min.js"
RUN = "axe.run(document, {resultTypes: ['violations']}).then(found => JSON.stringify(found.violations))"


def violations(page: Page) -> list[str]:
    """Each rule that the page breaks as it stands now, with the elements: `image-alt (critical): ... : img`.

    Skips the test where axe-core is not installed.
    """
    if not SOURCE.exists():
        pytest.skip("axe-core is not installed: make test-tools")
    session = page.context.new_cdp_session(page)  # a page's own content policy does not concern it
    try:
        _evaluate(session, SOURCE.read_text(encoding="utf-8") + ";0")
        found = json.loads(_evaluate(session, RUN))
    finally:
        session.detach()
    return [_told(violation) for violation in found]


def _evaluate(session: Any, expression: str) -> Any:
    answer = session.send("Runtime.evaluate", {"expression": expression, "awaitPromise": True, "returnByValue": True})
    assert "exceptionDetails" not in answer, answer["exceptionDetails"]
    return answer["result"]["value"]


def _told(violation: dict[str, Any]) -> str:
    elements = ", ".join(" ".join(map(str, node["target"])) for node in violation["nodes"])
    return f"{violation['id']} ({violation['impact']}): {violation['help']}: {elements}"
