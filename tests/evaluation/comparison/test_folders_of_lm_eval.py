"""What lm-eval's own program leaves is read as it is: scores and groups come out as lm-eval says."""

import pytest
from lm_eval import simple_evaluate
from lm_eval.loggers import EvaluationTracker
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoTokenizer

from tests.conftest import shaken
from topiclora_cli.evaluation.comparison.compare import compare

# Of the metrics that are of single questions; `over` weighs its parts by size.
EXPECTED = {"choice": "acc_norm,none", "few": "acc,none", "many": "acc,none", "cloze": "perplexity,none"}
EXPECTED |= {"prose": "word_perplexity,none", "free": "exact_match,strict-match"}


def evaluated(model, tokenizer, task_folder, output, **settings):
    """lm-eval's results, and its files as its command line writes them."""
    found = simple_evaluate(
        HFLM(pretrained=model, tokenizer=tokenizer, batch_size=4),
        tasks=["over", "cloze", "prose", "free"],
        task_manager=TaskManager(include_path=str(task_folder), include_defaults=False),
        bootstrap_iters=0,
        **settings,
    )
    samples = found.pop("samples")
    tracker = EvaluationTracker(output_path=str(output))
    tracker.general_config_tracker.log_experiment_args("hf", "pretrained=tiny", None, None, False)
    tracker.save_results_aggregated(results=found, samples=samples)
    for task, rows in samples.items():
        tracker.save_results_samples(task_name=task, samples=rows)
    return found["results"]


def test_scores_and_groups_are_those_of_lm_eval(tiny_model, tiny_model_dir, task_folder, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    before = evaluated(tiny_model, tokenizer, task_folder, tmp_path / "before")
    after = evaluated(shaken(tiny_model), tokenizer, task_folder, tmp_path / "after")
    (found,) = compare([str(tmp_path / "before"), str(tmp_path / "after")], show_flips=3)
    rows = {row.task: row for row in found.rows}
    for task, key in EXPECTED.items():
        row = rows[task]
        assert f"{row.metric},{row.filter}" == key
        assert (row.baseline, row.score) == pytest.approx((before[task][key], after[task][key]), rel=1e-6), task
        assert row.difference.mean == pytest.approx(after[task][key] - before[task][key], rel=1e-6)
        assert row.count == before[task]["sample_len"]
    assert rows["weighed"].score == pytest.approx(after["weighed"]["acc,none"])
    assert len(found.flips) == min(3, found.flipped)
    assert all({flip.right, flip.baseline, flip.answer} <= {"odd", "even"} for flip in found.flips)

    limited = evaluated(tiny_model, tokenizer, task_folder, tmp_path / "limited", limit=5)
    (found,) = compare([str(tmp_path / "after"), str(tmp_path / "limited")], tasks=["many"])
    assert found.rows[0].difference.mean == 0
    assert found.rows[0].score == pytest.approx(limited["many"]["acc,none"])
    assert found.notes == ["many: 7 questions that not all asked are left out."]
