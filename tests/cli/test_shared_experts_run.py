"""Experts that every token passes through, by the command line: training, reports, export, counts and mistakes."""

import json

import pytest
from peft import LoraConfig, get_peft_model

from topiclora_cli.stages.catalogue import describe_methods

OWN_A, ONE_A = 12, 2  # ranks of an export of 4 + 2 experts of rank 2


def settings(*changes):
    return [part for change in changes for part in ("--set", f"adapter.{change}")]


@pytest.mark.parametrize("changes", [("shared_gate=one",), ("shared_gate=softmax", "shared_a=true")], ids=str)
def test_a_run_reports_on_routed_experts_and_exports_all(changes, tiny_recipe, run_cli, tmp_path):
    given, run = settings("shared_experts=2", *changes), tmp_path / "run"
    code, text = run_cli("train", "--recipe", tiny_recipe, "--out", run, *given, "--set", "eval.base=false")
    assert code == 0, text
    assert "4 + 2 shared" in text
    counted = json.loads((run / "run.json").read_text())["stages"]["train"]
    code, text = run_cli("train", "--recipe", tiny_recipe, "--dry-run", *given)
    assert f"{counted['total_parameters']:,}, {counted['activated_parameters']:,}" in text
    code, text = run_cli("eval", "--run", run)
    assert code == 0, text
    routing = json.loads(next((run / "eval").glob("*/summary.json")).read_text())["routing"]
    assert {len(gates) for gates in routing["by_topic"].values()} == {4}
    assert all(sum(gates) == pytest.approx(1, abs=1e-3) for gates in routing["by_topic"].values())
    code, text = run_cli("route", "What is 12 times 7?", "--run", run, "--json")
    assert code == 0, text
    shown = json.loads(text)["mean_gates"]
    assert len(shown) == 4
    assert sum(shown) == pytest.approx(1, abs=1e-5)
    code, text = run_cli("merge", "--run", run)
    assert code == 0, text
    exported = json.loads(next((run / "merged").glob("*/lora/adapter_config.json")).read_text())
    assert exported["r"] == (ONE_A if "shared_a=true" in changes else OWN_A)
    card = (run / "adapter" / "README.md").read_text()
    assert "4 LoRA experts of rank 2 and 2 more for every token" in card
    assert "| shared_experts | 2 |" in card


def test_trained_loras_become_the_routed_experts(tiny_recipe, tiny_model, run_cli, tmp_path):
    config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(tiny_model, config).save_pretrained(tmp_path / "lora")
    two = f"{tmp_path / 'lora'},{tmp_path / 'lora'}"
    arguments = ["--recipe", tiny_recipe, "--init-from", two, *settings("method=molora"), "--set", "train.max_steps=1"]
    code, text = run_cli("train", "--out", "run", *arguments, *settings("shared_experts=1"))
    assert code == 0, text
    assert "2 + 1 shared" in text
    code, text = run_cli("train", "--out", "more", *arguments, *settings("shared_experts=3"))
    assert code == 2
    assert "shared_experts (3) cannot exceed num_experts (2)" in text


def test_methods_are_listed_with_them():
    (row,) = describe_methods(None, None, ["topiclora"], overrides=["adapter.shared_experts=8", "adapter.r=4"])
    assert row.experts == "8 + 8 shared, top-2"
    given = ["adapter.shared_experts=2", "adapter.shared_gate=softmax"]
    assert "shared in the softmax" in describe_methods(None, None, ["topiclora"], overrides=given)[0].sharing
    (row,) = describe_methods(None, None, ["perft-r"], overrides=["adapter.shared_experts=1"])
    assert row.experts == "8 + 1 shared, top-2"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("shared_experts=5",), "adapter: shared_experts (5) cannot exceed num_experts (4)"),
        (("method=mola", "shared_experts=3"), "adapter: shared_experts (3) cannot exceed num_experts (2)"),
        (("method=lora", "shared_experts=1"), "adapter.shared_experts means nothing to lora"),
        (("method=perft-e", "shared_experts=1"), "means nothing to perft-e: its embedded variant has no router"),
        (("method=perft-r", "shared_gate=softmax"), "adapter.shared_gate means nothing to perft-r"),
        (("shared_gate=softmax",), "adapter.shared_gate means nothing without adapter.shared_experts"),
        (("method=hmora", "shared_experts=1", "shared_gate=softmax"), "nothing to the hierarchical router"),
        (("method=mixlora", "shared_experts=1", "shared_gate=softmax"), "nothing to mixing: ffn"),
        (("shared_gate=two",), "adapter.shared_gate"),
    ],
    ids=str,
)
def test_mistakes_are_named(given, message, tiny_recipe, run_cli):
    code, text = run_cli("train", "--recipe", tiny_recipe, "--out", "run", *settings(*given))
    assert code == 2
    assert message in " ".join(text.split())
