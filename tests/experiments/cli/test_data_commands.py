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


def test_statistics_count_what_is_there(smaug, tmp_path):
    clips(tmp_path / "data")
    code, out, _ = smaug("data", "stats", "birds", "--scale", "tiny")
    assert code == 0 and out.startswith("birds train: 10 captions of 5 clips\n")
    assert "9 captions repeat an earlier one, 3 clips do" in out and "0.00 hours in 5 of them" in out
    found = json.loads(smaug("data", "stats", "birds", "--scale", "tiny", "--json")[1])["train"]
    assert (found["words"]["most"], found["seconds"]["total"], found["tokens"]["count"]) == (2, 2.5, 10)


def test_a_contact_sheet_shows_frames_captions_and_what_cannot_be_read(smaug, tmp_path):
    info = clips(tmp_path / "data", caption="a <b>bird</b> & more")
    (info.media_root / "1.mp4").unlink()
    assert smaug("data", "show", "birds", "5")[0] == 0
    page = (info.folder / "contact_sheet_train.html").read_text("utf-8")
    assert page.count("<figure>") == 5 and page.count("a &lt;b&gt;bird&lt;/b&gt; &amp; more") == 5
    assert (page.count("data:image/jpeg"), page.count("1.mp4: no such file")) == (16, 1)
    assert smaug("data", "show", "birds", "--split", "no")[0] == 2
