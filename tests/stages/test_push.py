"""What is pushed, and what its card says; the hub itself is a stub here."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import yaml
from huggingface_hub import HfApi, ModelCard
from peft import LoraConfig, get_peft_model

from topiclora_cli.adapters import TopicLoraConfig
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe import build_recipe, dump_recipe
from topiclora_cli.runs.results.bundle import BUNDLE, Bundle, BundleAdapter
from topiclora_cli.runs.results.evaluation import EvalSummary, MeanScores, TaskScores
from topiclora_cli.runs.results.export import Export, TaskGap
from topiclora_cli.runs.results.files import write_result
from topiclora_cli.runs.results.training import SourceReport, TrainResult
from topiclora_cli.runs.run import RunDir
from topiclora_cli.stages.push import CARD, push

WEIGHTS = "adapter_model.safetensors"
SHARE = {"unit": "share", "higher_is_better": True}
TASKS = (TaskGap("piqa", "acc", base=0.2, routed=0.5, export=0.4),)
SCORES = {"base": 0.2, "base_stderr": 0.02, "tuned": 0.5, "tuned_stderr": 0.05, "delta": 0.3, "delta_stderr": 0.04}


def summary(name):
    task = {"group": False, "depth": 0, "counted": True, "metric": "acc", "filter": "none", "count": 100, "metrics": {}}
    tasks = tuple(TaskScores(task=each, **task, **SHARE, **SCORES) for each in ("arc_easy", "piqa"))
    return EvalSummary(name, MeanScores(of=("arc_easy", "piqa"), **SHARE, **SCORES), tasks)


@pytest.fixture
def run(tiny_model, tmp_path):
    """A trained run with an evaluation and an export as a LoRA, as its stages leave it."""
    said = {"name": "mine", "model": {"name": "someone/base"}, "adapter": {"r": 2, "num_experts": 4}}
    made = RunDir.create(tmp_path / "run", recipe_yaml=dump_recipe(build_recipe(said, where="-")), name="mine", seed=0)
    config = TopicLoraConfig(r=2, num_experts=4, top_k=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(tiny_model, config)
    model.peft_config["default"].base_model_name_or_path = "someone/base"
    model.save_pretrained(made.path / "adapter")
    (made.path / "adapter" / "topic_graph").mkdir()
    (made.path / "adapter" / "topic_graph" / "graph.json").write_text("{}")
    source = SourceReport(label="some/where/cards.jsonl", too_long=0, used=8, tagged=8, mean_tokens=9.0)
    with made.running("train") as running:
        running.result = TrainResult(1, 6, 48, 1234, 567, {"loss": 1.0}, data=(source,))
    write_result(made.path / "eval" / "first" / "summary.json", summary("first"))
    lora = get_peft_model(model.unload(), LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    lora.save_pretrained(made.path / "merged" / "mean" / "lora")
    write_result(
        made.path / "merged" / "mean" / "gap.json", Export("mean", kl=0.0123, agreement=0.9, tokens=50, tasks=TASKS)
    )
    return made


@pytest.fixture
def hub(monkeypatch):
    """Calls of the hub's API by name, and the files that it was given."""
    calls = {}

    def create(self, repo_id, **options):
        calls["create"] = {"repo_id": repo_id, **options}
        return SimpleNamespace(repo_id=repo_id)

    def upload(self, *, repo_id, folder_path, **_):
        calls["files"] = {p.relative_to(folder_path).as_posix() for p in folder_path.rglob("*") if p.is_file()}
        return f"https://hub/{repo_id}/commit/1"

    monkeypatch.setattr("topiclora_cli.stages.push.get_token", lambda: "secret")
    monkeypatch.setattr(HfApi, "create_repo", create)
    monkeypatch.setattr(HfApi, "upload_folder", upload)
    return calls


def test_an_adapter_is_pushed_whole_and_leaves_nothing_behind(run, hub):
    before = sorted(path.name for path in run.path.iterdir())
    done = push(run, "me/thing", private=True)
    files = {"README.md", "adapter_config.json", "adapter_model.safetensors", "topic_graph/graph.json"}
    assert hub["files"] == set(done.files) == files
    assert hub["create"] == {"repo_id": "me/thing", "private": True, "exist_ok": True}
    assert done.address == "https://hub/me/thing/commit/1"
    assert sorted(path.name for path in run.path.iterdir()) == before


def test_no_right_answer_of_a_few_is_no_certainty(run):
    few = summary("first")
    nothing = replace(few.tasks[0], count=4, tuned=0.0, tuned_stderr=0.0)
    write_result(run.path / "eval" / "first" / "summary.json", replace(few, tasks=(nothing, *few.tasks[1:])))
    card = (push(run, "me/thing", rehearse=True).folder / "README.md").read_text()
    assert "| 4 | 20.0 | 0.0 | 0.0 to 49.0 |" in card


def test_the_card_tells_method_budget_scores_with_intervals_and_how_to_load(run):
    own = (run.path / "adapter" / "README.md").read_text()
    done = push(run, "me/thing", rehearse=True)
    card = ModelCard.load(done.folder / "README.md")
    assert 'AutoPeftModelForCausalLM.from_pretrained("me/thing")' in card.text
    assert "| method | topiclora |" in card.text
    assert "| trained parameters | 1,234 |" in card.text
    assert "| of which a token meets | 567 |" in card.text
    assert "| data | cards.jsonl |" in card.text
    assert "| arc_easy | acc, % ↑ | 100 | 20.0 | 50.0 | 40.4 to 59.6 | +30.0 ± 4.0 |" in card.text
    assert "| **mean of 2** |" in card.text
    result = card.data.eval_results[0]
    assert (card.data.model_name, result.dataset_name, result.metric_type, result.metric_value) == (
        *("thing", "arc_easy", "acc"),
        0.5,
    )
    assert result.metric_args["low_95"] == pytest.approx(0.4038, abs=1e-4)
    assert card.data.base_model == "someone/base"
    assert "topiclora" in card.data.tags
    assert (run.path / "adapter" / "README.md").read_text() == own


def test_a_base_that_is_a_folder_here_is_told(run, tiny_model_dir, run_cli):
    file = run.path / "adapter" / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "base_model_name_or_path": str(tiny_model_dir)}))
    code, text = run_cli("push", str(run.path), "me/thing", "--dry-run")
    assert code == 0, text
    assert f"Note: adapter_config.json names the base as {tiny_model_dir}, which nobody else has." in text


def test_an_export_s_card_tells_its_gap_and_whose_the_scores_are(run):
    done = push(run, "me/thing", what="lora", rehearse=True)
    card = ModelCard.load(done.folder / "README.md")
    assert (done.export, set(done.files)) == (
        "mean",
        {"README.md", "adapter_config.json", "adapter_model.safetensors", "gap.json"},
    )
    assert "| KL(routed \\|\\| export), nats per answer token | 0.0123 |" in card.text
    assert "These are the routed adapter's" in card.text
    assert [(r.dataset_name, r.metric_value, r.metric_args) for r in card.data.eval_results] == [
        ("piqa", 0.4, {"base": 0.2})
    ]


def test_of_an_imported_run_the_adapter_alone_is_pushed(run, tmp_path):
    folder = run.path / "adapter"
    for file in folder.iterdir():
        if file.is_file():
            file.rename(run.path / file.name)
    (folder / "topic_graph" / "graph.json").unlink()
    (folder / "topic_graph").rmdir()
    folder.rmdir()
    done = push(run, "me/thing", rehearse=True)
    assert set(done.files) == {"README.md", "adapter_config.json", "adapter_model.safetensors"}


@pytest.mark.parametrize(
    ("repository", "options", "message"),
    [
        ("thing", {}, "names no user. Write user/name"),
        ("me/a thing", {}, "no name of a repository"),
        ("me/thing", {"what": "gguf"}, "--what gguf is nothing to push. There are: adapter, lora"),
        ("me/thing", {"what": "dense"}, "has no export with dense. Make one with: .*merge --run"),
        ("me/thing", {"what": "lora", "export": "best"}, "no export best with lora. There are: mean"),
        ("me/thing", {"export": "mean"}, "--export means nothing to --what adapter"),
    ],
)
def test_what_cannot_be_pushed_is_told_before_anything_is_done(repository, options, message, run, hub):
    with pytest.raises(TopicLoraError, match=message):
        push(run, repository, **options)
    assert not hub


def test_without_a_token_or_a_network_there_is_one_clear_line(run, hub, monkeypatch):
    def unreachable(self, *_, **__):
        raise ConnectionError("the hub cannot be reached")

    monkeypatch.setattr(HfApi, "create_repo", unreachable)
    with pytest.raises(TopicLoraError, match="me/thing could not be pushed: the hub cannot be reached"):
        push(run, "me/thing")
    assert not list(run.path.glob(".push-*"))
    monkeypatch.setattr("topiclora_cli.stages.push.get_token", lambda: None)
    with pytest.raises(TopicLoraError, match=r"no token of the hub.*hf auth login"):
        push(run, "me/thing")


def test_the_command_lists_what_a_rehearsal_wrote(run, run_cli):
    code, text = run_cli("push", str(run.path), "me/thing", "--dry-run")
    assert code == 0, text
    assert "adapter_model.safetensors" in text
    assert "what would be pushed to me/thing (adapter; 4 files" in text
    head = (run.path / "pushed" / "adapter" / "README.md").read_text().split("---")[1]
    assert yaml.safe_load(head)["model-index"][0]["name"] == "thing"
    assert json.loads((run.path / "pushed" / "adapter" / "adapter_config.json").read_text())["r"] == 2


@pytest.fixture
def bundled(run):
    """The run with a bundle of two LoRAs, and what else an export's folder holds."""
    folder = run.path / "merged" / "topic-all"
    for name in ("mean", "sums"):
        shutil.copytree(run.path / "merged" / "mean" / "lora", folder / "lora" / name)
    for name in ("topic_graph/graph.json", "recipe.yaml", "request.json", "eval/mean/results.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    adapters = (BundleAdapter("mean", "lora/mean", 2), BundleAdapter("sums", "lora/sums", 2, ("sums", "algebra")))
    topics = {"sums": "sums", "algebra": "sums", "poems": "mean"}
    write_result(folder / BUNDLE, Bundle("someone/base", "someone/base", "hash:64", "mean", 2, adapters, topics))
    write_result(folder / "gap.json", Export("topic:all", kl=0.0456, agreement=0.9, tokens=50))
    return run


def test_a_bundle_is_pushed_with_all_that_a_gateway_reads_and_nothing_else(bundled, hub):
    done = push(bundled, "me/thing", what="bundle")
    loras = {f"lora/{name}/{file}" for name in ("mean", "sums") for file in ("adapter_config.json", WEIGHTS, CARD)}
    assert hub["files"] == {*loras, CARD, "bundle.json", "gap.json", "recipe.yaml", "topic_graph/graph.json"}
    assert (done.export, done.what) == ("topic-all", "bundle")
    assert not (bundled.path / "merged" / "topic-all" / CARD).exists()


def test_a_bundle_s_card_tells_its_topics_and_how_the_gateway_vllm_and_peft_load_it(bundled):
    done = push(bundled, "me/thing", what="bundle", rehearse=True)
    card = ModelCard.load(done.folder / CARD)
    assert "| sums | 2 | sums, algebra |" in card.text
    assert "topiclora serve me/thing --upstream http://127.0.0.1:8000" in card.text
    start = "vllm serve someone/base --enable-lora --max-loras 2 --max-lora-rank 8"
    assert f"{start} --lora-modules mean=thing/lora/mean sums=thing/lora/sums\n" in card.text
    assert 'PeftModel.from_pretrained(base, "me/thing", subfolder="lora/mean")' in card.text
    assert "| KL(routed \\|\\| export), nats per answer token | 0.0456 |" in card.text
    assert (card.data.base_model, card.data.library_name) == ("someone/base", "peft")


def test_without_a_bundle_the_command_that_makes_one_is_told(run):
    with pytest.raises(TopicLoraError, match=r"no export with bundle\. .*merge --run .* --gates topic:all --to lora"):
        push(run, "me/thing", what="bundle")
