"""Task by task or all at once: the figures are those of lm-eval's own entry point, with shots, groups and errors."""

import pytest
import yaml
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoTokenizer

from tests.conftest import DATA, needs_data
from topiclora_cli.evaluation.choice_loss import CHOICE_LOSS
from topiclora_cli.evaluation.harness import EvalRequest
from topiclora_cli.evaluation.loading import load_tasks
from topiclora_cli.evaluation.running import run_harness

SUBJECTS = {"algebra": "abstract_algebra", "law": "professional_law"}


def test_figures_are_those_of_simple_evaluate(tiny_model, tiny_model_dir, task_folder, tmp_path):
    names = ["over", "plain", "pairs", "cloze", "prose", "free"]
    compare(names, tiny_model, tiny_model_dir, task_folder, tmp_path, batch_size=5)


@needs_data
def test_figures_on_mmlu_are_those_of_simple_evaluate(tiny_model, tiny_model_dir, tmp_path_factory, tmp_path):
    folder = tmp_path_factory.mktemp("mmlu")
    for name, subject in SUBJECTS.items():
        files = {split: str(DATA / f"hub/cais/mmlu/{subject}/{split}.parquet") for split in ("test", "dev")}
        task = {
            **{"task": name, "dataset_path": "parquet", "dataset_kwargs": {"data_files": files}},
            **{"test_split": "test", "fewshot_split": "dev", "output_type": "multiple_choice"},
            "doc_to_text": "{{question}}\nA. {{choices[0]}}\nB. {{choices[1]}}\nAnswer:",
            **{"doc_to_choice": ["A", "B", "C", "D"], "doc_to_target": "answer"},
            "metric_list": [{"metric": "acc"}],
        }
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(task))
    group = {"group": "both", "task": list(SUBJECTS), "aggregate_metric_list": [{"metric": "acc"}]}
    (folder / "both.yaml").write_text(yaml.safe_dump(group))
    compare(["both"], tiny_model, tiny_model_dir, folder, tmp_path, limit=110, num_fewshot=1)


def compare(names, model, model_dir, folder, tmp_path, **settings):
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    request = EvalRequest(tasks=names, include_path=str(folder), **settings)
    ours = run_harness(model, tokenizer, request, load_tasks(request), label="m", output_path=tmp_path)
    theirs = {}
    for name in names:  # of two groups that share a task it refuses the second
        raw = simple_evaluate(
            HFLM(pretrained=model, tokenizer=tokenizer, batch_size=settings.get("batch_size", 16)),
            tasks=[name],
            limit=settings.get("limit"),
            num_fewshot=settings.get("num_fewshot"),
            task_manager=TaskManager(include_path=str(folder), include_defaults=False),
            bootstrap_iters=20,
        )
        theirs |= {task: (values, raw["higher_is_better"][task]) for task, values in raw["results"].items()}
    assert ours.scores.keys() == theirs.keys()
    for name, score in ours.scores.items():
        values, directions = theirs[name]
        stock = {key: metric for key, metric in score.metrics.items() if metric.name != CHOICE_LOSS}  # which is ours
        assert stock.keys() == {key for key in values if "," in key and "_stderr," not in key}
        for key, metric in stock.items():
            assert metric.value == pytest.approx(values[key], rel=1e-4, nan_ok=True), (name, key)
            error = values[f"{metric.name}_stderr,{metric.filter}"]
            assert metric.stderr == (None if error == "N/A" else pytest.approx(error, rel=1e-3)), (name, key)
            assert metric.higher_is_better == directions[metric.name], (name, key)
