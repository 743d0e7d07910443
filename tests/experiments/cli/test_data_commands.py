"""The commands of `smaug data`, as the command line runs them."""

import json

from tests.data.prepare.test_checking import clips
from tests.data.test_dataset_info import prepared


def test_prepared_data_sets_are_listed_with_the_share_of_what_is_published(smaug, tmp_path):
    assert smaug("data", "list") == (
        0,
        f"{tmp_path / 'data'}: no prepared data sets; `smaug data prepare` makes one\n",
        "",
    )
    prepared(tmp_path / "data")
    code, out, _ = smaug("data", "list")
    assert code == 0 and "birds" in out and "83.3%" in out
    (held,) = json.loads(smaug("data", "list", "--json")[1])
    assert (held["name"], held["splits"]["train"]["captions"]) == ("birds", 5)


def test_a_damaged_description_hides_no_other_data_set(smaug, tmp_path):
    prepared(tmp_path / "data")
    other = prepared(tmp_path / "data", "fish")
    other.file.write_text("kind: [")
    code, out, err = smaug("data", "list")
    assert code == 1 and "birds" in out and str(other.file) in err


def test_options_before_a_command_are_refused(smaug):
    code, _, err = smaug("data", "--scale", "paper", "list")
    assert (code, err) == (2, "smaug data: expected options after 'list', got --scale before it\n")


def test_a_check_lists_bad_media_and_writes_a_clean_manifest(smaug, tmp_path):
    info = clips(tmp_path / "data")
    code, out, _ = smaug("data", "check", "birds")
    assert (code, out) == (0, "birds train: 10 captions, 0 of them with bad media\n")
    (info.media_root / "3.jpgs").unlink()
    code, out, _ = smaug("data", "check", "birds", "--workers", "1")
    assert code == 1 and out.startswith(f"train row 3 (birds/train/3.jpgs#0): {info.media_root}/3.jpgs: no such file")
    assert "2 of them with bad media" in out
    code, out, _ = smaug("data", "check", "birds", "--write")
    assert code == 0 and out.endswith("written again without them\n")
    assert smaug("data", "check", "birds")[0] == 0
