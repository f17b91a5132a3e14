"""An imported MixLoRA and HydraLoRA in eval, merge, route and generate, from the command line to the last token."""

import json

import pytest
from peft import AutoPeftModelForCausalLM, PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.adapters.helpers import TOKENS, logits
from tests.importing.helpers import draw, save
from topiclora_cli.runs.run import RunDir

E, R = 3, 4


def hydra(base):
    tensors = {}
    for layer in (0, 1):
        for name, d_in, d_out in (("up_proj", 32, 48), ("down_proj", 48, 32)):
            at = f"base_model.model.model.layers.{layer}.mlp.{name}."
            tensors |= {f"{at}lora_A.weight": draw(R, d_in), f"{at}lora_route.weight": draw(E, d_in)}
            tensors |= {f"{at}lora_B{e}.weight": draw(d_out, R) for e in range(E)}
    settings = {"peft_type": "LORA", "r": R, "lora_alpha": 8, "lora_nums": E, "lora_dropout": 0.1}
    return tensors, {**settings, "base_model_name_or_path": str(base)}


def mixlora(base):
    tensors = {}
    for layer in (0, 1):
        at = f"mixlora.layers.{layer}"
        tensors[f"{at}.mlp.moe_gate.weight"] = draw(E, 32)
        tensors |= {
            f"{at}.self_attn.q_proj.lora_A.weight": draw(R, 32),
            f"{at}.self_attn.q_proj.lora_B.weight": draw(32, R),
        }
        for name, d_in, d_out in (("gate_proj", 32, 48), ("up_proj", 32, 48), ("down_proj", 48, 32)):
            for e in range(E):
                expert = f"{at}.mlp.{name}.experts.{e}"
                tensors |= {f"{expert}.lora_A.weight": draw(R, d_in), f"{expert}.lora_B.weight": draw(d_out, R)}
    settings = {"peft_type": "MIXLORA", "r": R, "lora_alpha": 8, "lora_dropout": 0.1, "num_experts": E, "top_k": 2}
    return tensors, {**settings, "routing_strategy": "mixlora", "base_model_name_or_path": str(base)}


@pytest.fixture(params=[hydra, mixlora], ids=["hydralora", "mixlora"])
def imported(request, tiny_model_dir, tmp_path, run_cli):
    """The folder that the command has made, and its format."""
    name = request.param.__name__
    save(tmp_path / "published", *request.param(tiny_model_dir))
    code, text = run_cli("import", "published", "--out", "mine")
    assert code == 0, text
    assert "mine: " + ("hydralora from hydralora" if name == "hydra" else "mixlora from mixlora") in text
    assert "eval --run mine" in text
    return tmp_path / "mine", name


def test_an_imported_folder_is_what_peft_loads_and_generates(imported, tiny_model_dir):
    folder, _ = imported
    model = AutoPeftModelForCausalLM.from_pretrained(folder).eval()
    base = AutoModelForCausalLM.from_pretrained(tiny_model_dir).eval()
    assert not logits(model).allclose(logits(base), atol=1e-2)
    made = model.generate(input_ids=TOKENS, max_new_tokens=4, do_sample=False)
    again = PeftModel.from_pretrained(base, folder).eval().generate(input_ids=made[:, :-1], max_new_tokens=1)
    assert made.shape[1] > TOKENS.shape[1]
    assert again[:, -1].tolist() == made[:, -1].tolist()
    card = (folder / "README.md").read_text()
    assert "It was imported from a checkpoint of the format" in card
    assert AutoTokenizer.from_pretrained(tiny_model_dir).pad_token == "<pad>"


def test_an_imported_folder_is_a_run_that_evaluates_routes_and_merges(imported, run_cli):
    folder, name = imported
    code, text = run_cli("eval", "--run", "mine", "--tasks", "topiclora_syllogisms", "--limit", "2")
    assert code == 0, text
    summary = json.loads(next((folder / "eval").glob("*/summary.json")).read_text())
    assert summary["tasks"][0]["task"] == "topiclora_syllogisms"
    code, text = run_cli("route", "--run", "mine", "What is 2 plus 3?")
    assert code == 0, text
    code, text = run_cli("merge", "--run", "mine", "--to", "lora", "--set", "merge.calibration=4")
    if name == "mixlora":
        assert code == 2
        assert "non-linearity" in text
    else:
        assert code == 0, text
        assert (folder / "merged" / "mean" / "lora" / "adapter_model.safetensors").is_file()
    code, text = run_cli("runs", "show", "mine")
    assert code == 0, text
    assert "import" in text
    assert RunDir(folder).is_done("import")


def test_a_refused_import_is_one_line_with_exit_code_2(tmp_path, run_cli):
    code, text = run_cli("import", "nowhere", "--out", "mine")
    assert (code, text.count("\n")) == (2, 1)
    assert "error: There is no checkpoint at nowhere." in text
