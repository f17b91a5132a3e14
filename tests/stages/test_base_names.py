"""What adapters and exports call their base lasts: the cache may go, and others load them on a base of their own."""

import json
import shutil

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tests.conftest import write_tiny_recipe
from topiclora_cli.models import names, packages

IDS = torch.tensor([[5, 9, 12, 7, 30, 4]])


@pytest.fixture
def package(tiny_model_dir, tmp_path, monkeypatch):
    """A package that carries the tiny model, whose original is said to lie on a hub; its folder in the cache."""
    gguf = tmp_path / "site" / "tiny.gguf"
    gguf.parent.mkdir()
    gguf.write_text("weights")
    monkeypatch.setenv("TOPICLORA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(packages, "_packaged_gguf", lambda name: gguf)
    monkeypatch.setattr(packages, "_dequantise", lambda file, folder: shutil.copytree(tiny_model_dir, folder))
    monkeypatch.setitem(names.ORIGINALS, "pypi:tiny-package", "org/tiny")
    # Nothing that is saved is to look for its base on a hub.
    monkeypatch.setattr("peft.utils.save_and_load.check_file_exists_on_hf_hub", None)
    return tmp_path / "cache" / "models"


@pytest.fixture
def done(package, tmp_path, run_cli):
    """A run on that package's model, trained and exported."""
    recipe = write_tiny_recipe(tmp_path, "pypi:tiny-package")
    for arguments in (["train", "--recipe", recipe, "--out", "run"], ["merge", "--run", "run"]):
        code, text = run_cli(*arguments)
        assert code == 0, text
    return tmp_path / "run"


def base_of(folder):
    return json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]


def test_a_run_outlives_the_cache_and_its_files_name_no_place_in_it(done, package, tmp_path, run_cli, tiny_model_dir):
    lora = done / "merged" / "mean" / "lora"
    assert base_of(done / "adapter") == base_of(lora) == "org/tiny"
    texts = {path: path.read_text() for path in done.rglob("*") if path.suffix in (".json", ".md")}
    assert [path for path, text in texts.items() if str(tmp_path / "cache") in text] == []
    for card in (done / "adapter" / "README.md", lora / "README.md"):
        assert 'load_base("pypi:tiny-package")' in texts[card]
        assert "AutoPeftModelForCausalLM.from_pretrained" in texts[card]
        assert "More Information Needed" not in texts[card]
    assert "from transformers import AutoModelForCausalLM" in texts[lora.parent / "dense" / "README.md"]

    package.parent.rename(tmp_path / "gone")
    code, text = run_cli("eval", "--run", "run", "--limit", "1", "--no-base")
    assert code == 0, text
    code, text = run_cli("merge", "--run", "run", "--gates", "mean", "--name", "again")
    assert code == 0, text
    assert base_of(done / "merged" / "again" / "lora") == "org/tiny"

    assert (done / "checkpoints" / "checkpoint-6" / "README.md").is_file()  # one of those looked through above

    # On a base that somebody else has, without anything of ours.
    stock = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model_dir), lora).eval()
    dense = AutoModelForCausalLM.from_pretrained(lora.parent / "dense").eval()
    with torch.no_grad():
        assert torch.allclose(stock(IDS).logits, dense(IDS).logits, atol=1e-4)

    # As earlier versions named it: a folder of a cache, of this one or of others, there or not.
    (made,) = (path for path in package.iterdir() if path.is_dir())
    shutil.copytree(made, tmp_path / "kept" / made.name)
    config = done / "adapter" / "adapter_config.json"
    for place in (package, tmp_path / "kept", tmp_path / "gone" / "models", tmp_path / "never"):
        old = {**json.loads(config.read_text()), "base_model_name_or_path": str(place / made.name)}
        config.write_text(json.dumps(old))
        code, text = run_cli("route", "--run", "run", "What is it?")
        assert code == 0, text


def test_what_is_on_no_hub_is_called_as_our_loaders_read_it():
    assert names.name_for_others("pypi:other", "/cache/models/x-1", upcycled=False) == "pypi:other"
    assert names.name_for_others("/my/model", "/my/model", upcycled=False) == "/my/model"
    assert names.name_for_others("org/a", "/cache/models/a-12", upcycled=True) == "upcycled:a-12"
    assert names.about_base("org/a", None) == ""
