"""Where weights are found, and what a plan may know of them without torch and without the hub."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from smaug_core import torchvision_on_cpu
from smaug_core.errors import CheckpointError
from smaug_core.hub import find_beside, find_weights, timm_hub_name, weights_digest
from tests.hub import COMMIT, offline_cache, put

torchvision_on_cpu.make_importable()

import timm  # noqa: E402

OPENAI = "vit_base_patch16_clip_quickgelu_224.openai"


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    return offline_cache(monkeypatch, tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "only_one.pth"])
def test_a_directory_and_its_file_are_the_same_weights(tmp_path, name):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / name).write_bytes(b"weights")
    assert find_weights(str(tmp_path)) == find_weights(str(tmp_path / name)) == tmp_path / name
    assert weights_digest(str(tmp_path)) == weights_digest(str(tmp_path / name)) == digest(b"weights")


def test_the_usual_name_is_preferred_and_unusual_ones_are_not_guessed(tmp_path):
    for name in ("step1.pt", "step2.pt"):
        (tmp_path / name).write_bytes(b"weights")
    with pytest.raises(CheckpointError, match="expected a file model.safetensors, got step1.pt, step2.pt; if"):
        find_weights(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    assert find_weights(str(tmp_path)).name == "model.safetensors"


def test_weights_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "model.safetensors").symlink_to("/proc/self/mem")  # opens, and fails when it is read
    with pytest.raises(CheckpointError, match="model.safetensors: cannot be read"):
        weights_digest(str(tmp_path))


def test_a_directory_without_weights_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="expected a file model.safetensors, got none"):
        weights_digest(str(tmp_path))


@pytest.mark.parametrize("missing", ["weights/clip.safetensors", "/no/such/directory", "./clip", "a b", ""])
@pytest.mark.parametrize("use", [find_weights, weights_digest])
def test_a_path_that_is_missing_is_named(cache, missing, use):
    with pytest.raises(CheckpointError, match=f"{missing}: no such file or directory of weights"):
        use(missing)


def test_a_name_that_the_hub_cannot_have_is_refused(cache):
    with pytest.raises(CheckpointError, match="a--b/c: no such file or directory, and the hub does not give it"):
        weights_digest("a--b/c")


def test_a_hub_name_comes_from_the_cache_without_the_hub(cache):
    path = put(cache, "google-bert/bert-base-uncased", "model.safetensors", b"weights")
    assert find_weights("google-bert/bert-base-uncased") == path
    assert weights_digest("google-bert/bert-base-uncased") == digest(b"weights")


def test_a_revision_is_told_apart(cache):
    put(cache, "some/bert", "pytorch_model.bin", b"weights", revision="v2")
    assert weights_digest("some/bert@v2") == weights_digest(f"some/bert@{COMMIT}") == digest(b"weights")
    assert weights_digest("some/bert") is None


def test_a_hub_name_that_was_not_seen_has_no_digest_and_is_refused_offline(cache):
    assert weights_digest("some/bert") is None
    with pytest.raises(CheckpointError, match="some/bert: no such file or directory, and neither the hub can be reach"):
        find_weights("some/bert")


def test_timm_stands_for_the_weights_of_the_tag(cache):
    put(cache, "timm/vit_base_patch16_clip_224.openai", "model.safetensors", b"weights")
    assert weights_digest("timm", vision=OPENAI) == digest(b"weights")
    assert weights_digest("timm", vision="beit_base_patch16_224.in22k_ft_in22k") is None
    for untagged in (None, "vit_base_patch16_clip_quickgelu_224"):
        with pytest.raises(CheckpointError, match="expected a name with a tag"):
            weights_digest("timm", vision=untagged)


@pytest.mark.parametrize("family", ["vit_*_clip_*", "beit_*", "beitv2_*", "vit_*.augreg_in21k"])
def test_hub_names_are_those_of_timm(family):
    names = timm.list_models(family, pretrained=True)
    assert len(names) >= 6
    assert [timm_hub_name(name) for name in names] == [timm.get_pretrained_cfg(name).hf_hub_id for name in names]


def test_what_lies_beside_weights(cache, tmp_path):
    (tmp_path / "bert").mkdir()
    for name in ("model.safetensors", "config.json"):
        (tmp_path / "bert" / name).write_bytes(b"{}")
    assert find_beside(str(tmp_path / "bert"), "config.json") == tmp_path / "bert" / "config.json"
    assert find_beside(str(tmp_path / "bert"), "vocab.txt") is None
    assert find_beside(str(tmp_path / "bert" / "model.safetensors"), "config.json") is None
    path = put(cache, "some/bert", "config.json", b"{}")
    assert find_beside("some/bert", "config.json") == path
    assert find_beside("some/bert", "vocab.txt") is None  # out of reach


def test_plans_need_no_torch(tmp_path):
    cache = tmp_path / "home" / "hub"
    put(cache, "some/bert", "model.safetensors", b"weights")
    code = (
        "import sys\n"
        "from smaug_core.hub import weights_digest\n"
        "print(weights_digest('some/bert'), weights_digest('other/bert'))\n"
        "assert not {'torch', 'timm', 'transformers'} & set(sys.modules)\n"
    )
    environment = os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert ran.stdout.split() == [digest(b"weights"), "None"], ran.stderr
