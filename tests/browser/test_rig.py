"""The rig of the browser tests notices what it is there to notice."""

import pytest

pytestmark = pytest.mark.browser
GOOD = '<!doctype html><html lang="en"><title>t</title><main><h1>Rows</h1><img alt="a ring" src="data:,"></main>'


@pytest.fixture
def show(page, tmp_path):
    def shown(html):
        path = tmp_path / "page.html"
        path.write_text(html)
        page.goto(path.as_uri())

    return shown


def test_a_good_page_is_quiet_and_accessible(page, show, watched, axe):
    show(GOOD)
    assert page.title() == "t"
    assert axe(page) == []
    watched.assert_quiet()


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("console.error('lost a row')", "lost a row"),
        ("throw new Error('no such cell')", "no such cell"),
        ("setTimeout(() => Promise.reject(new Error('late')), 1)", "late"),
    ],
)
def test_errors_are_noticed(page, show, watched, script, said):
    show(f"{GOOD}<script>{script}</script>")
    page.wait_for_timeout(100)
    assert len(watched.errors) == 1 and said in watched.errors[0]
    with pytest.raises(AssertionError):
        watched.assert_quiet()


@pytest.mark.parametrize(
    ("element", "url"),
    [
        ('<img alt="" src="https://example.org/a.png">', "https://example.org/a.png"),
        ("<script>fetch('http://localhost.:9/x').catch(() => 0)</script>", "http://localhost.:9/x"),
        ("<script>new WebSocket('wss://example.org/s')</script>", "wss://example.org/s"),
        ("<style>@import url('https://fonts.example.org/f.css')</style>", "https://fonts.example.org/f.css"),
    ],
)
def test_requests_to_other_hosts_are_noticed(page, show, watched, element, url):
    show(GOOD + element)
    page.wait_for_timeout(100)
    assert watched.outside == [url]


def test_what_axe_finds_is_told_with_the_elements(page, show, axe):
    show(GOOD.replace('alt="a ring"', 'id="bare"'))
    (told,) = axe(page)
    assert told.startswith("image-alt (critical): ") and told.endswith(": #bare")


def test_axe_works_where_the_page_forbids_scripts(page, show, axe):
    policy = """<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:">"""
    show(GOOD.replace("<title>", f"{policy}<title>"))
    assert axe(page) == []


def test_each_test_has_a_new_profile(page, context):
    assert context.cookies() == [] and page.url == "about:blank"
