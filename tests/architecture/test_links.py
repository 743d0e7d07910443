"""Links between the documents: every relative link names a file, and every anchor a heading of it."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\]\((?!https?://)([^)#\s]*)(#[^)\s]*)?\)")
NAMED = re.compile(r"\bdocs/[\w/]+\.md\b")
SOURCE = re.compile(r"`((?:smaug_core|experiments|reports|sweeps|slurm|tests)/[\w/]+\.(?:py|yaml|sh|json))`")


def _anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings: lower case, no punctuation, hyphens for spaces."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {"#" + re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    broken = []
    for target, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        file = page if not target else (page.parent / target).resolve()
        if not file.exists() or (anchor and anchor not in _anchors(file)):
            broken.append(target + anchor)
    assert not broken, f"{page.relative_to(ROOT)}: links to nothing: {broken}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_source_files_that_a_page_names_exist(page: Path) -> None:
    missing = [name for name in SOURCE.findall(page.read_text(encoding="utf-8")) if not (ROOT / name).exists()]
    assert not missing, f"{page.relative_to(ROOT)}: names files that do not exist: {missing}"


def test_code_names_pages_that_exist() -> None:
    sources = [path for folder in ("smaug_core", "experiments", "reports") for path in (ROOT / folder).rglob("*.py")]
    named = {(path, page) for path in sources for page in NAMED.findall(path.read_text(encoding="utf-8"))}
    assert named
    missing = sorted(f"{path.relative_to(ROOT)}: {page}" for path, page in named if not (ROOT / page).exists())
    assert not missing, f"pages that do not exist: {missing}"


def test_the_list_of_pages_is_complete() -> None:
    listed = set(re.findall(r"\((\w+\.md)\)", (ROOT / "docs/README.md").read_text(encoding="utf-8")))
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert listed == pages
