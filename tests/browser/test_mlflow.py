"""MLflow's real pages answer "which mask ratio is best per hour" from the committed measurements."""

import re
import time

import pytest
from playwright.sync_api import expect

from experiments.store.export import read_records
from tests.browser.conftest import REFERENCE

pytestmark = [pytest.mark.browser, pytest.mark.slow]
SEARCH = "tags.`smaug.scale` = 'tiny' and attributes.status = 'FINISHED'"
PATIENCE_MS = 60_000
"""MLflow's page has megabytes of scripts, and two cores may be busy."""


@pytest.fixture(scope="module")
def records():
    return read_records(REFERENCE)


@pytest.fixture(scope="module")
def measured(records):
    """R@1 and hours of pre-training of Table 4, by mask ratio."""
    asked = [document for document in records.documents if document.sweep == "masking_ratio"]
    metrics = {document.variant: records.trial(document).metrics() for document in asked}
    assert len(metrics) == 4
    return {name: (found["msrvtt.t2v.r1"][0], found["row_hours.pretrain"][0]) for name, found in metrics.items()}


def gain(measured, name):
    """Points of R@1 for each hour."""
    accuracy, hours = measured[name]
    return accuracy / hours


@pytest.fixture(scope="module")
def best_first(measured):
    """The mask ratios, those with most points of R@1 for each hour first."""
    return sorted(measured, key=lambda name: gain(measured, name), reverse=True)


@pytest.fixture(scope="module")
def most_accurate_first(measured):
    return sorted(measured, key=lambda name: measured[name][0], reverse=True)


@pytest.fixture
def experiment(page, address, watched):
    """The experiment of Table 4 as somebody opens it who starts at the first page; quiet to the end."""
    page.set_viewport_size({"width": 1440, "height": 800})
    page.set_default_timeout(PATIENCE_MS)
    expect.set_options(timeout=PATIENCE_MS)
    page.goto(f"{address}#/experiments")
    page.get_by_text("Model training", exact=True).first.click()
    page.get_by_role("link", name="smaug/masking_ratio").first.click()
    page.get_by_role("button", name="Close").click()  # the assistant
    expect(rows(page).nth(3)).to_be_visible()
    yield page
    assert watched.outside == []
    assert [error for error in watched.errors if "/mlflow/users/current" not in error] == []  # mlflow's own 404


def rows(page):
    """The links to the rows' runs."""
    return page.get_by_role("link", name=re.compile(r"^\d+% seed 0 tiny$"))


def shown(page):
    """The mask ratios from top to bottom; the grid's elements are in no order."""
    places = rows(page).evaluate_all("links => links.map(link => [link.getBoundingClientRect().y, link.innerText])")
    return [name.split()[0] for _, name in sorted(places)]


def eventually(page, order):
    """Wait until the rows are in this order."""
    give_up = time.monotonic() + PATIENCE_MS / 1000
    while shown(page) != order:
        assert time.monotonic() < give_up, f"{shown(page)} instead of {order}"
        page.wait_for_timeout(100)


def sort_by(page, metric):
    page.get_by_role("button", name=re.compile("^Sort: ")).click()
    page.get_by_placeholder("Search", exact=True).fill(metric)
    page.get_by_role("menuitemcheckbox", name=metric, exact=True).click()


def open_view(page):
    page.get_by_role("button", name="Views").click()
    page.get_by_text("Best per hour (tiny)").click()


def test_the_documented_search_and_sort_name_the_best_mask_ratio_per_hour(experiment, best_first, most_accurate_first):
    page = experiment
    assert best_first != most_accurate_first
    search = page.get_by_placeholder(re.compile("^metrics.rmse"))
    search.fill(SEARCH.replace("tiny", "paper"))
    search.press("Enter")
    expect(rows(page)).to_have_count(0)
    search.fill(SEARCH)
    search.press("Enter")
    expect(rows(page)).to_have_count(4)
    sort_by(page, "msrvtt.t2v.r1")
    eventually(page, most_accurate_first)
    sort_by(page, "msrvtt.t2v.r1_per_hour")
    eventually(page, best_first)


def test_the_saved_view_answers_in_a_table_charts_and_a_comparison(
    experiment, measured, best_first, most_accurate_first, picture
):
    page = experiment
    sort_by(page, "msrvtt.t2v.r1")
    eventually(page, most_accurate_first)
    open_view(page)
    eventually(page, best_first)
    page.locator("label:has(input[value=CHART])").click()
    expect(page.get_by_text("row_hours.pretrain vs. msrvtt.t2v.r1")).to_be_visible()
    from_below = [f"{gain(measured, name):.2f}" for name in reversed(best_first)]
    expect(page.locator(".bartext")).to_have_text(from_below)
    page.mouse.move(10, 700)  # a row under the pointer fades the others
    expect(page.locator(".scatterlayer .point")).to_have_count(len(measured))
    picture(page, "mlflow-charts")
    page.locator("label:has(input[value=TABLE])").click()
    eventually(page, best_first)
    for name in best_first:
        expect(page.get_by_role("gridcell", name=f"{gain(measured, name):.10f}"[:8])).to_be_visible()
    picture(page, "mlflow-table")

    page.get_by_label("Select all runs").first.click()
    page.get_by_role("button", name="Compare").click()
    expect(page.get_by_text("Comparing 4 Runs from 1 Experiment")).to_be_visible()
    page.get_by_role("tab", name="Scatter Plot").click()
    page.get_by_role("combobox", name="Y-axis:").click()
    page.get_by_role("option", name="msrvtt.t2v.r1_per_hour", exact=True).click()
    drawn = page.get_by_role("tabpanel", name="Scatter Plot").locator(".js-plotly-plot")
    expect(drawn.locator(".ytitle")).to_have_text("msrvtt.t2v.r1_per_hour")
    points = drawn.evaluate("plot => Array.from(plot.data[0].x, (x, n) => [Number(x), plot.data[0].y[n]])")
    assert {f"{ratio:.0%}": per_hour for ratio, per_hour in points} == pytest.approx(
        {name: gain(measured, name) for name in measured}
    )
    picture(page, "mlflow-compare")


def test_a_row_says_what_it_is_and_leads_to_its_stages(experiment, best_first):
    page = experiment
    rows(page).get_by_text(f"{best_first[0]} seed 0 tiny").click()
    expect(page.get_by_text("a row of Table 4: Ablation study on using different masking ratios.")).to_be_visible()
    with page.expect_popup() as popup:
        page.get_by_role("link", name="pretrain", exact=True).click()
    expect(popup.value.get_by_role("heading", name=re.compile("^pretrain [0-9a-f]{12}$"))).to_be_visible()
    expect(popup.value.get_by_role("link", name="hours.billed")).to_be_visible()
