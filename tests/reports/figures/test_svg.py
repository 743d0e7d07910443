"""What a page may rely on in an SVG, and the geometry of labels."""

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports.figures.canvas import LOOKS, Canvas, said, shortened, wrapped
from reports.figures.figure import figure_name
from reports.figures.labels import Box, place_labels, spread
from reports.figures.svg import standalone

HOSTILE = '<script>alert(1)</script> $x_1$ & "5%" 中'


def drawn(name: str) -> str:
    canvas = Canvas(name, 120)
    axes = canvas.axes(40, 20, 300, 70, HOSTILE)
    axes.plot([0, 1, 2], [3.123456, 4, 5], marker="o", color=LOOKS[0].colour)
    axes.barh([1], [1.5], hatch="///", facecolor="none", edgecolor="red")
    return canvas.svg()


def test_the_same_drawing_has_the_same_bytes():
    assert drawn("one") == drawn("one")


def test_nothing_that_a_page_may_forbid_or_that_acts_on_the_page():
    svg = drawn("one")
    root = ElementTree.fromstring(svg)
    tags = {element.tag.split("}")[1] for element in root.iter()}
    assert not tags & {"style", "script", "metadata", "title", "foreignObject", "image"}
    attributes = {key for element in root.iter() for key in element.attrib}
    assert not attributes & {"style", "class", "width", "onload"} - {"width"}
    assert "width" not in root.attrib and "height" not in root.attrib and root.get("viewBox") == "0 0 400 120"
    assert set(re.findall(r"https?://[^\"' ]+", svg)) == {"http://www.w3.org/2000/svg"}
    assert "<!DOCTYPE" not in svg and "<?xml" not in svg and "#123456" not in svg and "currentColor" in svg


def test_text_stays_text_and_is_escaped():
    texts = ["".join(e.itertext()) for e in ElementTree.fromstring(drawn("one")).iter() if e.tag.endswith("}text")]
    assert HOSTILE in texts


def test_ids_of_two_figures_never_collide_and_every_reference_is_met():
    def ids(svg):
        return set(re.findall(r' id="([^"]+)"', svg))

    one, two = drawn("one"), drawn("two")
    assert ids(one) and not ids(one) & ids(two)
    assert set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', one)) <= {(i, "") for i in ids(one)} | {
        ("", i) for i in ids(one)
    }
    assert all(own.startswith("one-") for own in ids(one))


def test_numbers_are_short():
    assert not re.search(r"\d\.\d{3,}", drawn("one"))


def test_a_file_of_its_own_is_dark_on_white_and_tells_what_it_shows():
    text = standalone(drawn("one"), "A & B", "Two rows.")
    root = ElementTree.fromstring(text)
    assert "currentColor" not in text and root.get("width") == "400" and root.get("height") == "120"
    assert [child.tag.split("}")[1] for child in root][:3] == ["title", "desc", "rect"]
    assert (root[0].text, root[1].text, root[2].get("fill")) == ("A & B", "Two rows.", "#ffffff")


def test_looks_differ_without_colour():
    for what in ("dashes", "marker", "hatch"):
        assert len({getattr(look, what) for look in LOOKS}) == len(LOOKS)


def test_a_sentence_instead_of_a_drawing():
    assert ">Nothing here.<" in said("empty", "Nothing here.")


def test_names_are_ids_and_file_names():
    assert figure_name("pareto", "4", "", "tiny") == "pareto-4-tiny"
    assert figure_name("hours", "a/../b c", "ü") == "hours-a-b-c-"


@pytest.mark.parametrize(("text", "cut"), [("short", "short"), ("a long name", "a lon…"), ("a to-do", "a to-…")])
def test_long_names_are_cut_visibly(text, cut):
    assert shortened(text, 6) == cut


def test_names_go_on_two_lines_at_most():
    assert wrapped("Singularity 17M, 4 frames", 16) == "Singularity 17M,\n4 frames"
    assert wrapped("one two three four five six", 8) == "one two\nthree f…"


def test_spread_by_hand():
    assert spread([], 2, 0, 10) == []
    assert spread([5.0, 1.0], 2, 0, 10) == [5.0, 1.0]
    assert spread([5.0, 5.0], 2, 0, 10) == [4.0, 6.0]
    assert spread([0.0, 0.0], 2, 0, 10) == [0.0, 2.0]
    assert spread([9.5, 10.0], 2, 0, 10) == [8.0, 10.0]
    assert spread([5.0, 5.0, 5.0], 8, 0, 10) == [0.0, 5.0, 10.0]


@given(st.lists(st.floats(-5, 15), min_size=1, max_size=8), st.floats(0.1, 4))
def test_spread_keeps_order_gap_and_bounds(wanted, gap):
    found = spread(wanted, gap, 0, 10)
    least = min(gap, 10 / max(1, len(wanted) - 1))
    order = sorted(range(len(wanted)), key=lambda place: (wanted[place], place))
    heights = [found[place] for place in order]
    assert all(b - a >= least - 1e-6 for a, b in zip(heights, heights[1:], strict=False))
    assert all(-1e-6 <= height <= 10 + 1e-6 for height in found)


def test_labels_avoid_points_each_other_and_the_frame():
    frame = Box(0, 0, 200, 100)
    points = [(50.0, 50.0), (58.0, 52.0), (195.0, 50.0)]
    boxes = place_labels(points, ["first", "second", "third"], [], frame, 8)
    marks = [Box(x - 4, y - 4, x + 4, y + 4) for x, y in points]
    for place, box in enumerate(boxes):
        assert box.outside(frame) == 0
        assert all(box.overlap(other) == 0 for other in boxes[:place] + marks)


def test_overlap_by_hand():
    assert Box(0, 0, 4, 4).overlap(Box(2, 3, 9, 9)) == 2
    assert Box(0, 0, 4, 4).overlap(Box(4, 0, 9, 9)) == 0
    assert Box(0, 0, 4, 4).outside(Box(0, 0, 2, 9)) == 8


def test_nearest_point_by_hand():
    assert Box(0, 0, 4, 4).nearest(6, 2) == (4, 2)
    assert Box(0, 0, 4, 4).nearest(1, 9) == (1, 4)
    assert Box(0, 0, 4, 4).nearest(2, 3) == (2, 3)
