"""The page of the committed measurements in a real browser: by mouse, by keyboard, on a phone and on paper."""

import re
import shutil
import subprocess
from collections import Counter
from dataclasses import replace

import pytest
from playwright.sync_api import expect

from experiments.tracking.reader import MlflowReader
from reports.html.page import make_page
from reports.report import read_report
from tests.reports.html.test_page import EVIL, MadeLedger, report_of
from tests.reports.rows import row

pytestmark = pytest.mark.browser
PHONE, DESK = {"width": 360, "height": 740}, {"width": 1280, "height": 900}
MOST_BYTES = 2_000_000
TABLE = "[aria-labelledby=table-4-tiny] > table"
PAPER = ["10%", "25%", "50%", "65%"]
PATIENCE_MS = 60_000
"""For MLflow's page, which has megabytes of scripts."""


@pytest.fixture(scope="module")
def path(reference, tmp_path_factory):
    made, faults = make_page(read_report(reference), MlflowReader(reference), tmp_path_factory.mktemp("out"))
    assert faults == ()
    return made


@pytest.fixture
def opened(page, path, watched):
    """The page as it opens from a disk; quiet to the end."""
    page.goto(path.as_uri())
    yield page
    watched.assert_quiet()


def names(page):
    """The rows of Table 4 from top to bottom."""
    texts = page.locator(f"{TABLE} tbody th").all_inner_texts()
    return [re.sub(r"\s*baseline", "", text).strip() for text in texts]


def numbers(page):
    """R@1 of Table 4 as measured, from top to bottom."""
    return [float(text) for text in page.locator(f"{TABLE} tbody td:nth-child(5) .value").all_inner_texts()]


def header(page, name):
    return page.locator(TABLE).get_by_role("button", name=re.compile(f"^{re.escape(name)}"))


def scrolls_sideways(page):
    return page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")


def too_wide(page):
    """Tables that are wider than their boxes, by what names these; those below figures are not open yet."""
    return page.locator("section > .scroll, .table > .scroll, .printed > .scroll").evaluate_all(
        """boxes => boxes.filter(box => box.scrollWidth > box.clientWidth)
        .map(box => box.getAttribute("aria-labelledby") ?? box.ariaLabel)"""
    )


def printed(page, folder):
    """By page of the PDF, its words, and those that are not within it."""
    if shutil.which("pdftotext") is None:
        pytest.skip("pdftotext is not installed: make test-tools")
    path = folder / "page.pdf"
    page.pdf(path=path, prefer_css_page_size=True)
    told = subprocess.run(
        ["pdftotext", "-bbox", path, "-"], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    words, outside = [], []
    for sheet in told.split("<page ")[1:]:
        width = float(re.match(r'width="([\d.]+)"', sheet)[1])
        found = re.findall(r'<word xMin="([-\d.]+)" .*?xMax="([-\d.]+)" .*?>(.*?)</word>', sheet)
        words.append([word for _, _, word in found])
        outside += [word for left, right, word in found if float(left) < 0 or float(right) > width]
    return words, outside


def computed(page, selector, what):
    return page.locator(selector).first.evaluate(f"element => getComputedStyle(element).{what}")


def test_the_page_is_small_and_quickly_ready(opened, path, record_property):
    ready = opened.evaluate("performance.getEntriesByName('interactive')[0].startTime")
    record_property("interactive_ms", round(ready))
    record_property("bytes", path.stat().st_size)
    assert path.stat().st_size < MOST_BYTES
    assert opened.title() == "SMAUG, published and measured"
    assert opened.locator("table.paired").count() == 11 and opened.locator("figure svg").count() > 10


@pytest.mark.parametrize(
    ("scheme", "size"),
    [
        pytest.param("light", PHONE, id="light-phone"),
        pytest.param("dark", DESK, id="dark-desk"),
        pytest.param("light", DESK, id="light-desk", marks=pytest.mark.nightly),
        pytest.param("dark", PHONE, id="dark-phone", marks=pytest.mark.nightly),
    ],
)
def test_anybody_can_use_it(opened, axe, scheme, size):
    opened.set_viewport_size(size)
    opened.emulate_media(color_scheme=scheme)
    assert not scrolls_sideways(opened)
    assert axe(opened) == []
    opened.locator("[data-card=table-4-tiny-1-2]").click()
    expect(opened.locator("dialog[open]")).to_be_visible()
    assert not scrolls_sideways(opened)
    assert axe(opened) == []


def test_columns_sort_by_number_both_ways_and_back(opened):
    head = opened.locator(f"{TABLE} th.measured").nth(1)
    assert names(opened) == PAPER
    header(opened, "R@1 measured").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert numbers(opened) == sorted(numbers(opened), reverse=True) and names(opened) != PAPER
    header(opened, "R@1 measured").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert numbers(opened) == sorted(numbers(opened))
    header(opened, "R@1 measured").click()
    assert head.get_attribute("aria-sort") == "none" and names(opened) == PAPER


def test_published_and_measured_sort_apart_and_hours_the_shortest_first(opened):
    header(opened, "PT Time published").click()
    assert names(opened) == ["65%", "50%", "25%", "10%"]
    header(opened, "R@1 published").click()
    assert names(opened) == PAPER
    assert opened.locator(f"{TABLE} th:not([aria-sort=none])[aria-sort]").count() == 1


def test_the_keyboard_sorts_and_goes_back_to_the_papers_order(opened):
    header(opened, "PT Time measured").focus()
    opened.keyboard.press("Enter")
    assert names(opened) == ["65%", "50%", "25%", "10%"]
    back = opened.locator(".table", has=opened.locator("#table-4-tiny")).get_by_role("button", name="Back to the paper")
    back.focus()
    opened.keyboard.press("Enter")
    assert names(opened) == PAPER
    expect(back).to_be_hidden()


def test_rows_without_a_number_stay_below_and_group_headings_go(opened):
    table = "[aria-labelledby=table-1-tiny] > table"
    opened.locator(f"{table} th.measured button").first.click()
    rows = opened.locator(f"{table} tbody tr:not(.group)")
    values = rows.evaluate_all("rows => rows.map(row => 'value' in row.cells[4].dataset)")
    assert values == sorted(values, reverse=True) and True in values and False in values
    expect(opened.locator(f"{table} .group").first).to_be_hidden()


def test_a_cell_opens_and_closes_by_keyboard_and_the_focus_comes_back(opened):
    last = header(opened, "R@10 measured")
    last.focus()
    opened.keyboard.press("Tab")
    cell = opened.locator("[data-card=table-4-tiny-1-1]")
    expect(cell).to_be_focused()
    opened.keyboard.press("Tab")
    cell = opened.locator("[data-card=table-4-tiny-1-2]")
    expect(cell).to_be_focused()
    opened.keyboard.press("Enter")
    dialog = opened.get_by_role("dialog", name="10%: R@1")
    expect(dialog).to_be_visible()
    expect(dialog.get_by_role("button", name="Close")).to_be_focused()
    assert cell.locator(".value").inner_text() in dialog.locator(".measured").inner_text()
    opened.keyboard.press("Tab")
    expect(dialog.get_by_role("link")).to_be_focused()
    opened.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(cell).to_be_focused()


def test_a_cell_closes_by_its_button_and_by_what_is_around_it(opened):
    for close in (lambda: opened.locator("dialog[open] .close").click(), lambda: opened.mouse.click(5, 5)):
        opened.locator("[data-card=table-4-tiny-1-2]").click()
        expect(opened.locator("dialog[open]")).to_be_visible()
        opened.locator("dialog[open] dl").click()
        expect(opened.locator("dialog[open]")).to_be_visible()
        close()
        expect(opened.locator("dialog[open]")).to_have_count(0)


def test_everything_can_be_reached_by_tab(opened):
    unreachable = opened.evaluate(
        """[...document.querySelectorAll("a, button, input, summary, .scroll")]
        .filter(one => one.checkVisibility() && one.tabIndex < 0).length"""
    )
    assert unreachable == 0
    opened.keyboard.press("Tab")
    expect(opened.get_by_role("link", name="Skip to the results")).to_be_focused()


def test_rows_that_only_quote_can_be_hidden(opened):
    table = opened.locator(".table", has=opened.locator("#table-1-tiny"))
    expect(table.get_by_role("row", name=re.compile("^HERO"))).to_be_visible()
    table.get_by_role("checkbox", name=re.compile("^hide the 11 rows")).check()
    expect(table.get_by_role("row", name=re.compile("^HERO"))).to_be_hidden()
    expect(table.get_by_role("row", name=re.compile("^Ours 17M"))).to_be_visible()


def test_the_theme_is_chosen_and_remembered(opened, path):
    opened.emulate_media(color_scheme="light")
    light = computed(opened, "body", "backgroundColor")
    button = opened.get_by_role("button", name=re.compile("^Theme: "))
    button.click()
    button.click()
    expect(button).to_have_text("Theme: dark")
    dark = computed(opened, "body", "backgroundColor")
    assert dark != light
    opened.goto(path.as_uri())
    assert computed(opened, "body", "backgroundColor") == dark
    button.click()
    expect(button).to_have_text("Theme: automatic")
    assert computed(opened, "body", "backgroundColor") == light


def test_a_browser_that_remembers_nothing_still_shows_and_sorts(page, path, watched):
    page.add_init_script(
        "Object.defineProperty(window, 'localStorage', {get() { throw new DOMException('no', 'SecurityError'); }})"
    )
    page.goto(path.as_uri())
    page.get_by_role("button", name=re.compile("^Theme: ")).click()
    assert page.locator("html").get_attribute("data-theme") == "light"
    header(page, "PT Time measured").click()
    assert names(page)[0] == "65%"
    watched.assert_quiet()


def test_wide_tables_scroll_within_their_box_and_their_rows_keep_their_names(opened):
    opened.set_viewport_size(PHONE)
    box = opened.locator("[role=region][aria-labelledby=table-1-tiny]")
    box.scroll_into_view_if_needed()
    assert box.evaluate("box => box.scrollWidth > box.clientWidth")
    box.focus()
    before = box.locator("tbody tr:last-child th").bounding_box()["x"]
    box.evaluate("box => { box.scrollLeft = 300; }")
    assert box.locator("tbody tr:last-child th").bounding_box()["x"] == before


def test_paper_shows_what_is_written_and_nothing_to_press(opened):
    opened.emulate_media(color_scheme="dark", media="print")
    for selector in ("nav", ".controls", "#theme"):
        expect(opened.locator(selector).first).to_be_hidden()
    assert computed(opened, "html", "colorScheme") == "light"
    expect(opened.locator("[data-card=table-4-tiny-1-2] .value")).to_be_visible()
    assert computed(opened, "[role=region][aria-labelledby=table-4-tiny]", "overflowX") == "visible"


def test_paper_holds_every_number_of_every_table(opened, tmp_path):
    opened.emulate_media(media="print")
    shown = Counter(
        number
        for text in opened.locator(".paired td.published, .paired td.measured").all_inner_texts()
        for number in re.findall(r"\d+\.\d+", text)
    )
    words, outside = printed(opened, tmp_path)
    on_paper = Counter(number for sheet in words for word in sheet for number in re.findall(r"\d+\.\d+", word))
    assert shown["86.8"] == 3 and len(shown) > 300
    assert {number: count for number, count in shown.items() if on_paper[number] < count} == {}
    assert outside == []


def test_paper_keeps_words_whole_and_repeats_the_whole_header(opened, tmp_path):
    table = opened.locator("[aria-labelledby=table-1-tiny] > table")
    row = table.get_by_role("row", name=re.compile("^Singularity 5M"))
    row.evaluate("row => { row.style.breakBefore = 'page'; }")
    words, _ = printed(opened, tmp_path)
    first = next(place for place, sheet in enumerate(words) if "SupportSet" in sheet)
    again = next(place for place, sheet in enumerate(words) if "Singularity" in sheet and "baseline" in sheet)
    assert again > first
    for sheet in (words[first], words[again]):
        assert sheet.count("published") >= 9 and sheet.count("measured") >= 9


def test_on_paper_no_value_is_smaller_than_its_interval(opened):
    opened.emulate_media(media="print")
    for table in ("table-1-tiny", "table-4-tiny"):
        sizes = [
            float(computed(opened, f"[aria-labelledby={table}] > table {part}", "fontSize").removesuffix("px"))
            for part in ("td.published", ".open .value", ".open .more", "th .sub")
        ]
        assert min(sizes[:2]) > max(sizes[2:]) and min(sizes) > 7


def test_on_a_laptop_only_the_widest_tables_scroll(opened):
    assert too_wide(opened) == ["table-1-tiny", "table-2-tiny", "table-9-tiny"]


def test_whoever_skips_to_the_results_goes_on_from_there(opened):
    opened.keyboard.press("Tab")
    opened.keyboard.press("Enter")
    expect(opened.locator("main")).to_be_focused()
    opened.keyboard.press("Tab")
    expect(opened.get_by_role("region", name="Spending by sweep and scale")).to_be_focused()


def test_nothing_moves_for_those_who_do_not_want_it(opened):
    opened.emulate_media(reduced_motion="reduce")
    assert computed(opened, "html", "scrollBehavior") == "auto"


def test_without_scripts_every_number_is_there(browser, path):
    with browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(path.as_uri())
        expect(page.get_by_text("Without scripts all numbers and notes are here")).to_be_visible()
        expect(page.locator("[data-card=table-4-tiny-1-2] .value")).to_be_visible()
        expect(page.locator("#theme")).to_be_hidden()


def test_what_looks_like_a_script_stays_text(page, tmp_path, watched):
    asked = []
    page.on("dialog", lambda dialog: (asked.append(dialog.message), dialog.dismiss()))
    trials = [row("50%", hours=0.02, r1=20.0), row(EVIL, hours=0.03, r1=21.0, device=EVIL, marks=(EVIL,))]
    made, _ = make_page(report_of(trials), MadeLedger(), tmp_path)
    page.goto(made.as_uri())
    page.locator(".open", has_text="21.0").first.click()
    expect(page.locator("dialog[open] h4")).to_have_text(f"{EVIL}: R@1")
    assert asked == []
    watched.assert_quiet()


@pytest.mark.slow
def test_a_cell_leads_to_its_run_in_mlflow(reference, address, context, page, tmp_path):
    report = replace(read_report(reference), ui=address.rstrip("/"))
    made, _ = make_page(report, MlflowReader(reference), tmp_path)
    page.goto(made.as_uri())
    page.locator("[data-card=table-4-tiny-1-2]").click()
    value = page.locator("dialog[open] .measured b").inner_text().removesuffix(" %")
    with context.expect_page() as opening:
        page.locator("dialog[open]").get_by_role("link").click()
    run = opening.value
    run.set_default_timeout(PATIENCE_MS)
    expect(run.get_by_text("10% seed 0 tiny").first).to_be_visible(timeout=PATIENCE_MS)
    metric = run.get_by_role("row", name=re.compile(r"^msrvtt\.t2v\.r1 "))
    assert f"{float(metric.inner_text().split()[-1]):.1f}" == value


def test_table_4_as_the_readme_shows_it(opened, picture):
    opened.emulate_media(color_scheme="light", reduced_motion="reduce")
    opened.set_viewport_size({"width": 1240, "height": 640})
    opened.locator("#table-4-tiny").evaluate("heading => heading.scrollIntoView()")
    assert names(opened) == PAPER
    picture(opened, "report")
