"""An output head that carries an adapter: the loss is that without shortcuts, tied to the embedding or not."""

import json

import pytest
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from tests.conftest import TINY
from topiclora_cli.training import fit


@pytest.fixture(params=[False, True], ids=["untied", "tied"])
def recipe(request, tiny_recipe, tiny_model_dir, tmp_path):
    """The tiny recipe with the head among its targets."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    folder = tmp_path / "base"
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(vocab_size=len(tokenizer), **TINY, tie_word_embeddings=request.param)
    LlamaForCausalLM(config).save_pretrained(folder)
    values = yaml.safe_load(tiny_recipe.read_text())
    values["model"]["name"] = str(folder)
    values["adapter"]["target_modules"] = ["q_proj", "lm_head"]
    values["train"]["max_steps"] = 2
    tiny_recipe.write_text(yaml.safe_dump(values))
    return tiny_recipe


def losses(run):
    return [json.loads(line)["loss_lm"] for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("method", ["molora", "lora"])
def test_a_head_is_adapted(method, recipe, run_cli, tmp_path, monkeypatch):
    arguments = ["train", "--recipe", recipe, "--set", f"adapter.method={method}"]
    code, text = run_cli(*arguments, "--out", "one")
    assert code == 0, text
    assert "lm_head" in text
    monkeypatch.setattr(fit, "selects_logits", lambda model, **_: False)
    assert run_cli(*arguments, "--out", "two")[0] == 0
    assert losses(tmp_path / "one") == pytest.approx(losses(tmp_path / "two"), abs=1e-6)
    if method == "molora":
        code, text = run_cli("merge", "--run", "one")
        assert code == 0, text
        dense = next((tmp_path / "one" / "merged").glob("*/dense"))
        assert not AutoModelForCausalLM.from_pretrained(dense).config.tie_word_embeddings


def test_liger_would_pass_the_adapter_by(recipe, run_cli, monkeypatch):
    monkeypatch.setattr("topiclora_cli.stages.train.require_libraries", lambda recipe: None)
    settings = ["adapter.method=lora", "train.liger=true"]
    code, text = run_cli("train", "--recipe", recipe, *(part for key in settings for part in ("--set", key)))
    assert code == 2
    assert "train.liger reads the output head's weight itself" in text
