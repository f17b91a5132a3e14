"""PERFT through the real command line: on a model upcycled by the recipe, and with a topic graph on a sparse one."""

import json
import re
from typing import Any

import pytest
import torch
import yaml
from peft import get_peft_model_state_dict
from safetensors.torch import load_file

UPCYCLED = ["--set", "model.upcycle={experts: 3, top_k: 2}"]


def change_of_method(method):
    return ["--set", f"adapter.method={method}", "--set", "adapter.target_modules=experts"]


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("TOPICLORA_CACHE", str(tmp_path / "cache"))


def test_quickstart_leaves_out_what_the_recipe_does_not_have(tiny_recipe, run_cli, tmp_path):
    recipe = yaml.safe_load(tiny_recipe.read_text())
    del recipe["ablation"]
    tiny_recipe.write_text(yaml.safe_dump(recipe))
    code, text = run_cli("quickstart", "--recipe", tiny_recipe, "--out", "run", *UPCYCLED, *change_of_method("perft-r"))
    assert code == 0, text
    assert "1  training" in text
    assert "2  base against tuned" in text
    assert "topics -> experts" not in text
    assert "merged" not in text
    stages = json.loads((tmp_path / "run" / "run.json").read_text())["stages"]
    assert {name: stage["state"] for name, stage in stages.items()} == {"train": "done", "eval": "done"}
    summary = json.loads(next((tmp_path / "run" / "eval").glob("*/summary.json")).read_text())
    assert len(next(iter(summary["routing"]["by_topic"].values()))) == 4


def test_the_card_of_an_upcycled_base_loads_the_adapter_as_it_stands(tiny_recipe, run_cli, tmp_path):
    code, text = run_cli("train", "--recipe", tiny_recipe, "--out", "run", *UPCYCLED, *change_of_method("perft-r"))
    assert code == 0, text
    folder = tmp_path / "run" / "adapter"
    card = (folder / "README.md").read_text()
    assert "AutoPeft" not in card  # the base is on no hub
    said = re.findall(r"```python\n(.*?)```", card.partition("## Its base")[2], re.DOTALL)[0]
    names: dict[str, Any] = {}
    exec(said.replace("path or hub id of this adapter", str(folder)), names)
    assert names["model"].get_base_model().config.model_type == "mixtral"
    saved = load_file(folder / "adapter_model.safetensors")
    own = get_peft_model_state_dict(names["model"])
    assert saved.keys() == own.keys()
    assert all(torch.equal(saved[key], own[key]) for key in saved)


def test_topics_route_the_adapters_beside_the_experts(tiny_recipe, tiny_moe_dir, run_cli, tmp_path):
    changes = [*change_of_method("topic-perft"), "--set", f"model.name={tiny_moe_dir}"]
    code, text = run_cli("train", "--recipe", tiny_recipe, "--out", "run", *changes)
    assert code == 0, text
    config = json.loads((tmp_path / "run" / "adapter" / "adapter_config.json").read_text())
    assert config["peft_type"] == "PERFT"
    assert config["graph_sha256"]
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all({"loss_kl", "loss_balance"} <= set(row) for row in rows)
    code, text = run_cli("merge", "--run", "run")
    assert code == 2
    assert "no dense weight equals them" in " ".join(text.split())
    code, text = run_cli("train", "--run", "run", "--add-topic", "x", "--data", "x.jsonl")
    assert code == 2
    assert "by topic-perft, which has adapters beside a base's own experts" in " ".join(text.split())


def test_a_dense_base_is_refused_before_anything_is_trained(tiny_recipe, run_cli):
    code, text = run_cli("train", "--recipe", tiny_recipe, "--out", "run", *change_of_method("perft-e"))
    assert code == 2
    assert "(llama) has no mixture-of-experts block" in " ".join(text.split())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["adapter.variant=dense"], "variant means nothing to topiclora"),
        (["adapter.method=perft-r", "adapter.shared_a=true"], "shared_a means nothing to perft-r"),
        (
            ["adapter.method=perft-e", "loss.balance.weight=0.1"],
            "loss.balance.weight means nothing to perft-e",
        ),
        (["adapter.method=lora", "loss.kl.weight=0.1"], "loss.kl.weight means nothing to lora"),
        (["adapter.method=perft-r", "adapter.kernel=plain"], "kernel 'plain' is unknown"),
        (["adapter.method=perft-r", "adapter.init_from=[a]"], "init_from means nothing to perft-r"),
        (
            ["adapter.method=perft-e", "adapter.router=topic"],
            "router means nothing to perft-e: its embedded",
        ),
    ],
)
def test_settings_that_do_not_fit_are_named(changes, message, tiny_recipe, tiny_moe_dir, run_cli):
    targets = "[q_proj]" if "adapter.method=lora" in changes else "experts"
    changes = [*changes, f"model.name={tiny_moe_dir}", f"adapter.target_modules={targets}"]
    arguments = [part for change in changes for part in ("--set", change)]
    code, text = run_cli("train", "--recipe", tiny_recipe, "--out", "run", *arguments)
    assert code == 2
    assert message in " ".join(text.split())
