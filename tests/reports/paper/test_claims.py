"""The paper's claims hold, or do not, by its own tables; and a slip in their file is refused."""

import shutil

import pytest

from reports.paper.claims import Check, judge_published, load_claims
from reports.paper.tables import PAPER, ReportError, load_published

CLAIMS = {claim.id: claim for claim in load_claims()}
PUBLISHED = load_published()


def judged(name):
    return judge_published(CLAIMS[name], PUBLISHED)


def check(measure="difference", row="a", against="b", **bound):
    return Check(table="4", column="c", row=row, against=against, measure=measure, **bound)


def test_the_three_measures_by_hand():
    assert check("difference", at_least=0).value(39.5, 41.0) == -1.5
    assert check("saved_percent", at_least=0).value(75.0, 100.0) == 25.0
    assert check("ratio", at_least=0).value(50.0, 75.0) == 1.5


@pytest.mark.parametrize("pair", [(0.0, 1.0), (1.0, 0.0), (-1.0, 1.0)])
@pytest.mark.parametrize("measure", ["ratio", "saved_percent"])
def test_hours_of_nothing_have_no_ratio(measure, pair):
    with pytest.raises(ValueError, match=r"hours of (0|-1) have no ratio"):
        check(measure, at_least=0).value(*pair)


def test_a_bound_is_kept_as_printed_and_binary_rounding_does_not_break_it():
    floor, ceiling = check(at_least=-1.2), check(at_most=-1.2)
    assert 39.3 - 40.5 < -1.2, "what binary fractions make of it"
    assert floor.holds(39.3 - 40.5) and ceiling.holds(39.3 - 40.5)
    assert not floor.holds(-1.21) and floor.holds(-1.19)
    assert ceiling.holds(-1.21) and not ceiling.holds(-1.19)


def test_a_value_has_the_digits_that_show_on_which_side_of_the_bound_it_is():
    speed_up = check("ratio", at_least=1.9)
    assert speed_up.number(144.5 / 77.8) == "1.857"
    assert speed_up.number(1.89999) == "1.89999"
    assert check(at_least=-1.2).number(-1.2) == "-1.2"
    assert check(at_least=-1.2).number(-1.23) == "-1.23"
    assert check(at_least=-1.2).number(-1.17) == "-1.17", "it is not on the bound"


def test_a_check_says_what_it_compares_and_its_bound():
    assert check(at_least=-1.2).text("R@1") == "R@1, a minus b"
    assert check("saved_percent", at_least=28.8).text("PT Time") == "PT Time saved, a against b"
    assert check("ratio", at_least=1.9).text("PT Time") == "PT Time, b over a"
    assert check("saved_percent", at_least=28.8).bound_text == "at least 28.8 %"
    assert check("saved_percent", at_most=0).bound_text == "at most 0 %"
    assert check("ratio", at_least=1.9).bound_text == "at least 1.9x"


def test_the_published_speed_up_does_not_reach_what_is_claimed():
    (found,) = judged("speed_up")
    assert (found.holds, found.text) == (False, "does not hold (1.857)")
    assert found.value == pytest.approx(1.857, abs=5e-4)
    # Whatever was rounded away from the printed hours, 1.9 is out of reach.
    assert max(a / b for a in (144.45, 144.55) for b in (77.75, 77.85)) < 1.9


def test_masking_saves_what_is_claimed():
    time, recall = judged("masking")
    assert time.value == pytest.approx(100 * (70.8 - 50.4) / 70.8) == pytest.approx(28.81, abs=0.01)
    assert recall.value == pytest.approx(-1.2)
    assert (time.text, recall.text) == ("holds", "holds")


def test_what_the_papers_own_tables_do_not_bear_out():
    failing = {name: [found.text for found in judged(name) if not found.holds] for name in CLAIMS}
    assert {name: texts for name, texts in failing.items() if texts} == {
        "speed_up": ["does not hold (1.857)"],
        "zero_shot": ["does not hold (-2.6)"],
    }


def test_every_number_of_the_text_is_a_claim():
    bounds = {name: [found.bound_text for found in claim.checks] for name, claim in CLAIMS.items()}
    points = "at least {} points".format
    assert bounds == {
        "masking": ["at least 28.8 %", points(-1.2)],
        "keeping_rate": ["at least 0 %", points(-0.5)],
        "components_time": ["at least 0 %"] * 3,
        "components_loss": [points(-1.4)],
        "speed_up": ["at least 1.9x"],
        "selecting_two_of_four": [points(-0.5), "at least 0 %"],
        "selecting_one_of_four": [points(1.3)],
        "resolution": [points(3.2)],
        "decoder_depth": [points(0), "at most 0 %"],
        "singularity_5m": [points(3.8), "at least 0 %"],
        "singularity_17m": [points(2.5), "at least 30.5 %"],
        "zero_shot": [points(-1.5)] * 3,
        "four_frames_17m": [points(2.4)],
        "question_answering": [points(0)] * 6,
    }


@pytest.mark.parametrize(
    "name", ["masking", "components_loss", "selecting_one_of_four", "resolution", "singularity_17m"]
)
def test_a_number_of_the_text_is_the_very_edge_of_its_table(name):
    """A bound that is a tenth tighter no longer holds: no claim is weaker than what the paper says."""
    for found in judged(name):
        tighter = check(found.check.measure, at_least=found.check.at_least + 0.1)
        assert found.holds and not tighter.holds(found.value)


def test_the_confounded_comparisons_say_so():
    for name in ("singularity_5m", "singularity_17m", "four_frames_17m"):
        assert "starts from CLIP" in CLAIMS[name].caveat
    assert "ours" in CLAIMS["zero_shot"].caveat


@pytest.fixture
def folder(tmp_path):
    for path in PAPER.glob("*.yaml"):
        shutil.copy(path, tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('row: "50%", against', 'row: "55%", against', r"masking: row '55%' is not in Table 4; did you mean '65%'\?"),
        ('against: "10%"', 'against: "1%"', r"masking: row '1%' is not in Table 4; did you mean '10%'\?"),
        ("column: pretrain.hours", "column: pretrain.hour", r"column 'pretrain.hour' is not in Table 4; did you mean"),
        ('{table: "4"', '{table: "44"', "masking: table '44' is unknown; did you mean '4'"),
        (
            "at_least: 28.8",
            "at_least: 28.8, at_most: 30",
            "claims.yaml:10:9: needs exactly one of at_least and",
        ),
        (", at_least: 28.8", "", "claims.yaml:10:9: needs exactly one of at_least and"),
        ('against: "10%"', 'against: "50%"', "sets '50%' beside itself; `against` is another row"),
        (
            "measure: saved_percent",
            "measure: difference",
            "expected saved_percent or ratio, which compare across devices, got difference of pretrain.hours",
        ),
        ("measure: difference", "measure: ratio", "expected difference, got ratio of msrvtt.t2v.r1"),
        ("measure: saved_percent", "measure: saved", "'saved' is not allowed; input should be 'difference'"),
        ("id: resolution", "id: masking", "id 'masking' occurs twice"),
        ("caveat:", "caveats:", "key 'claims.4.caveats' is unknown; did you mean 'caveat'"),
        ("at_least: 28.8", "at_least: .inf", "claims.0.checks.0.at_least"),
    ],
)
def test_a_slip_is_refused(folder, old, new, told):
    path = folder / "claims.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ReportError, match=rf"(?s){told}"):
        load_claims(folder)


def test_a_claim_without_a_check_and_a_cell_without_a_number_are_refused(folder):
    path = folder / "claims.yaml"
    path.write_text("claims:\n  - {id: a, says: b, where: c, checks: []}\n")
    with pytest.raises(ReportError, match="claims.yaml:2:40: claim 'a' has no check"):
        load_claims(folder)
    path.write_text(
        "claims:\n  - id: a\n    says: b\n    where: c\n    checks:\n"
        "      - {table: '2', column: msrvtt.t2v.r1, row: Ours, against: MMT, measure: difference, at_least: 0}\n"
    )
    with pytest.raises(ReportError, match=r"a: Table 2 prints a dash for MMT, msrvtt.t2v.r1; it has values for AVLNet"):
        load_claims(folder)
