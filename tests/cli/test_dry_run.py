"""`topiclora train --dry-run`: a table on the terminal, and nothing on disk."""

import json
from pathlib import Path

import pytest

from topiclora_cli.models.base import load_base
from topiclora_cli.recipe import load_recipe
from topiclora_cli.stages.plan import estimate_needs


def value(text, row):
    return next(line.split("  ", 1)[1].strip() for line in text.splitlines() if line.strip().startswith(row))


def test_it_says_what_is_needed_and_leaves_nothing_behind(tiny_recipe, run_cli, tmp_path):
    before = set(tmp_path.iterdir())
    # Its steps know no prior, and so none that could force a router.
    code, text = run_cli("train", "--recipe", tiny_recipe, "--dry-run", "--set", "loss.prior_forcing.start=0.5")
    assert code == 0, text
    assert set(tmp_path.iterdir()) == before
    assert value(text, "steps") == "6"
    assert value(text, "examples") == "64"
    assert "tokens/s" in value(text, "3 real steps")


def test_its_counts_are_those_of_training(tiny_recipe, run_cli, quiet):
    needs = estimate_needs(load_recipe(str(tiny_recipe), ["adapter.r=64"]), quiet)
    code, text = run_cli("train", "--recipe", tiny_recipe, "--out", "run", "--set", "adapter.r=64")
    assert code == 0, text
    stage = json.loads(Path("run/run.json").read_text())["stages"]["train"]
    assert (needs.trained, needs.activated) == (stage["total_parameters"], stage["activated_parameters"])
    assert (needs.data.examples, needs.steps) == (stage["examples"], stage["steps"])
    (source,) = stage["data"]
    assert needs.data.tokens / needs.data.examples == pytest.approx(source["mean_tokens"], abs=0.1)
    # Of six steps' three checkpoints two are kept; beside the optimizer they hold some kilobytes of its settings.
    kept = [path for path in Path("run").rglob("*") if path.name in ("adapter_model.safetensors", "optimizer.pt")]
    assert needs.disk == pytest.approx(sum(path.stat().st_size for path in kept), rel=0.1)


def test_base_weights_are_those_that_are_loaded(tiny_recipe, tiny_model_dir, quiet):
    needs = estimate_needs(load_recipe(str(tiny_recipe)), quiet)
    weights = load_base(str(tiny_model_dir)).model.parameters()
    assert needs.memory.base == sum(parameter.nbytes for parameter in weights)


def test_what_cannot_be_read_is_unknown(run_cli):
    code, text = run_cli("train", "--recipe", "hydralora-gsm8k", "--dry-run", "--set", "data.decontaminate=false")
    assert code == 0, text
    assert "6,738,415,616" in value(text, "base parameters")
    assert value(text, "steps") == "unknown"
    assert "openai/gsm8k" in text
    assert "real steps" not in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dry-run", "--resume"], "nothing to resume"),
        (["--measure"], "--measure belongs to --dry-run"),
        (["--dry-run", "--set", "adapter.num_experts=auto"], "Give a number"),
        (["--dry-run", "--set", "model.name=nobody/nothing"], "Without a download: a model on this machine"),
        (["--dry-run", "--set", "adapter.target_modules=[nope]"], "nope"),
    ],
)
def test_mistakes_are_one_line(tiny_recipe, run_cli, arguments, message):
    code, text = run_cli("train", "--recipe", tiny_recipe, *arguments)
    assert code == 2
    assert message in " ".join(text.split())
    assert not Path("runs").exists()


@pytest.fixture
def quiet():
    from rich.console import Console

    from topiclora_cli.cli.console import TerminalProgress

    return TerminalProgress(Console(quiet=True))
