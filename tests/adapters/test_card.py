"""The card beside a saved or pushed adapter says what it is; a person's own card is left alone."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import HfApi, ModelCard
from peft import get_peft_model

from topiclora_cli.adapters import PerftConfig, TopicLoraConfig, push_to_hub


@pytest.fixture
def model(tiny_model):
    config = TopicLoraConfig(r=2, num_experts=4, top_k=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    return get_peft_model(tiny_model, config)


def test_saved_card_tells_method_sizes_and_how_to_load(model, tmp_path):
    model.save_pretrained(tmp_path)
    card = ModelCard.load(tmp_path / "README.md")
    assert {"topiclora", "mixture-of-experts", "lora"} <= set(card.data.tags)
    assert card.data.library_name == "peft"
    assert "4 LoRA experts of rank 2 with a `topic` router (top-2)" in card.text
    assert "import topiclora_cli  # of the Python package topiclora" in card.text
    assert "| num_experts | 4 |" in card.text
    assert "More Information Needed" not in card.text


def test_a_local_base_is_named_without_its_path(model, tiny_model_dir, tmp_path):
    model.peft_config["default"].base_model_name_or_path = str(tiny_model_dir)
    model.save_pretrained(tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert f"experts for {tiny_model_dir.name}" in text
    assert str(tiny_model_dir) not in text


def test_a_hub_base_is_linked(model, tmp_path):
    model.peft_config["default"].base_model_name_or_path = "someone/base"
    model.save_pretrained(tmp_path)
    card = ModelCard.load(tmp_path / "README.md")
    assert "[someone/base](https://huggingface.co/someone/base)" in card.text
    assert "AutoPeftModelForCausalLM.from_pretrained" in card.text
    assert (card.data.base_model, "base_model:adapter:someone/base" in card.data.tags) == ("someone/base", True)


def test_a_base_that_is_on_no_hub_is_to_be_given(model, tmp_path):
    model.peft_config["default"].base_model_name_or_path = "pypi:some-package"
    model.save_pretrained(tmp_path)
    card = ModelCard.load(tmp_path / "README.md")
    assert 'PeftModel.from_pretrained(base, "path or hub id of this adapter")' in card.text
    assert "huggingface.co/pypi" not in card.text
    assert (card.data.base_model, [tag for tag in card.data.tags if "base_model" in tag]) == (None, [])


def test_pushed_adapter_carries_the_card(model, monkeypatch):
    pushed = {}

    def upload_folder(self, *, repo_id, folder_path, **_):
        pushed.update({path.name: path.read_bytes() for path in Path(folder_path).iterdir()})
        return f"commit on {repo_id}"

    monkeypatch.setattr(HfApi, "create_repo", lambda self, repo_id, **_: SimpleNamespace(repo_id=repo_id))
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    assert push_to_hub(model, "someone/something") == "commit on someone/something"
    assert {"README.md", "adapter_config.json", "adapter_model.safetensors"} <= set(pushed)
    assert b"A mixture of 4 LoRA experts" in pushed["README.md"]


def test_a_filled_in_card_is_left_alone(model, tmp_path):
    (tmp_path / "README.md").write_text("---\ntags: [mine]\n---\n# My adapter\n")
    model.save_pretrained(tmp_path)
    assert "# My adapter" in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize(
    ("settings", "says", "rows"),
    [
        (
            {},
            "8 adapters with a `linear` router of their own (top-2), of bottleneck width 8",
            {"num_adapters", "top_k"},
        ),
        ({"variant": "embedded"}, "One adapter for each pretrained expert", set()),
        ({"variant": "dense", "num_adapters": 3}, "3 adapters, summed", {"num_adapters"}),
        ({"variant": "shared"}, "One adapter, of bottleneck width 8", set()),
    ],
)
def test_perft_shows_what_its_variant_has(settings, says, rows, tmp_path):
    PerftConfig(**settings).save_pretrained(tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert says in text
    assert {key for key in ("num_adapters", "top_k", "renormalize") if f"| {key} |" in text} - {"renormalize"} == rows
