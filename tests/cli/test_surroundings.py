"""Where a command runs: brackets in other people's text, spaces in paths, places that cannot be used, Ctrl-C."""

import ast
import io
from pathlib import Path

import pytest

import topiclora_cli
from topiclora_cli.cli.console import TerminalProgress, make_console
from topiclora_cli.errors import Interrupted, TopicLoraError
from topiclora_cli.models.base import load_base
from topiclora_cli.recipe import anchored, build_recipe

BRACKETS = ("math [easy]", "[/]", "[bold]x", "a :smile: b", "[link=x]")


@pytest.mark.parametrize("text", BRACKETS)
def test_text_in_brackets_is_printed_as_it_is(text):
    written = io.StringIO()
    console = make_console(file=written, width=100)
    console.print(text)
    progress = TerminalProgress(console)
    progress.say(text)
    progress.table(f"title {text}", [f"head {text}"], [[f"cell {text}"]])
    with progress.track(f"bar {text}", 1) as advance:
        advance(1, text)
    drawn = make_console(file=io.StringIO(), force_terminal=True, width=100)
    with TerminalProgress(drawn).track(text, 1) as advance:
        advance(1, text)
    assert text in drawn.file.getvalue()
    lines = [line.strip() for line in written.getvalue().splitlines()]
    assert lines.count(text) == 2
    for part in ("title", "head", "cell"):
        assert f"{part} {text}" in lines


def test_there_is_one_place_that_makes_consoles():
    made = []
    for path in Path(topiclora_cli.__file__).parent.rglob("*.py"):
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        made += [path.name for call in calls if isinstance(call.func, ast.Name) and call.func.id == "Console"]
    assert made == ["console.py"]


def test_a_topic_in_brackets_goes_through_a_whole_stage(tiny_recipe, run_cli, tmp_path):
    topics = "".join(f"  - {{topic: 'math [{level}]', description: d {level}}}\n" for level in ("easy", "/hard", "b"))
    (tmp_path / "topics.yaml").write_text(f"topics:\n{topics}")
    changes = ["graph.taxonomy=topics.yaml", "adapter.num_experts=2", "graph.compare_seeds=0", "graph.min_tasks=1"]
    code, text = run_cli(
        *("build-graph", "--recipe", tiny_recipe, "--out", "my run [1]"),
        *(part for change in [*changes, "graph.tagged_prompts=0"] for part in ("--set", change)),
    )
    assert code == 0, text
    for name in ("math [easy]", "math [/hard]", "Graph: my run [1]/graph", "topiclora train --run 'my run [1]'"):
        assert name in text


def test_reading_counts_the_examples_of_a_taxonomy_and_ends_with_all_of_them(tiny_recipe, run_cli, tmp_path):
    topics = "".join(f"  - {{topic: t{number}, examples: [ask {number}, say {number}]}}\n" for number in range(3))
    (tmp_path / "topics.yaml").write_text(f"topics:\n{topics}")
    changes = ["taxonomy=topics.yaml", "encoder=lm", "steps=5", "compare_seeds=0", "tagged_prompts=0"]
    changes = [*(f"graph.{change}" for change in changes), "adapter.num_experts=2"]
    code, text = run_cli(
        *("build-graph", "--recipe", tiny_recipe, "--out", "r"), *(part for each in changes for part in ("--set", each))
    )
    assert code == 0, text
    read = [line.split()[4] for line in text.splitlines() if line.startswith("reading topics and prompts")]
    assert read == ["9/9"]


@pytest.mark.parametrize("stop", [Interrupted(2, 7), KeyboardInterrupt()], ids=["in training", "elsewhere"])
def test_ctrl_c_in_an_ablation_says_what_goes_on(stop, tiny_recipe, run_cli, monkeypatch):
    def stopped(*_args, **_options):
        raise stop

    monkeypatch.setattr("topiclora_cli.ablation.launch.launch", stopped)
    code, text = run_cli("ablate", "--recipe", tiny_recipe, "--out", "a b", "--cells", "kl_off", "--seeds", "1")
    assert code == 130
    assert "topiclora ablate --run 'a b' --cells kl_off\n" in text
    code, text = run_cli("ablate", "--run", "a b", "--set", "eval.limit=2", "--seeds", "1,2")
    assert code == 130
    assert "topiclora ablate --run 'a b' --set eval.limit=2 --seeds 1,2\n" in text
    assert "Traceback" not in text


def test_ctrl_c_in_any_other_command_exits_with_its_code(run_cli, monkeypatch):
    def stopped(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr("topiclora_cli.stages.catalogue.describe_methods", stopped)
    code, text = run_cli("methods")
    assert (code, text) == (130, "error: Interrupted.\n")


@pytest.mark.parametrize(("number", "code"), [(2, 130), (15, 143)])
def test_a_signal_in_the_steps_of_a_dry_run_exits_with_its_code(number, code, tiny_recipe, run_cli, monkeypatch):
    def stopped(*_args, **_options):
        raise Interrupted(number, 2)

    monkeypatch.setattr("topiclora_cli.stages.plan.train_adapter", stopped)
    assert run_cli("train", "--recipe", tiny_recipe, "--dry-run") == (code, "error: Interrupted.\n")


def test_a_folder_below_a_file_is_one_line(tiny_recipe, run_cli, tmp_path):
    (tmp_path / "file").write_text("")
    code, text = run_cli("train", "--recipe", tiny_recipe, "--out", "file/x")
    assert (code, text) == (2, "error: The folder file/x cannot be made: file is a file. Choose another place.\n")


def test_a_cache_that_cannot_be_made_or_was_cleaned_up(tmp_path, monkeypatch):
    from topiclora_cli.runs.cache import cached_model

    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TOPICLORA_CACHE", str(tmp_path / "file" / "x"))
    with pytest.raises(TopicLoraError, match=r"cannot be made: .*file is a file.*Set TOPICLORA_CACHE"):
        cached_model("m", lambda folder: None)
    monkeypatch.setenv("TOPICLORA_CACHE", str(tmp_path / "cache"))
    made = []

    def make(folder):
        made.append(folder)
        folder.mkdir()
        for name in ("config.json", "tokenizer_config.json", "model.safetensors"):
            (folder / name).write_text("{}")

    folder = Path(cached_model("m", make))
    assert cached_model("m", make) == str(folder)
    (folder / "model.safetensors").unlink()
    cached_model("m", make)
    assert len(made) == 2


def test_a_run_finds_its_files_from_elsewhere(tmp_path, monkeypatch):
    for name in ("models/base", "rows.jsonl", "tasks"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    data = {"source": "rows.jsonl", "prompt": "{{ q }}", "completion": "{{ a }}"}
    values = {"name": "x", "model": {"name": "models/base"}, "data": data, "eval": {"include_path": "tasks"}}
    recipe = anchored(build_recipe(values, where="here"))
    assert recipe.model.name == str(tmp_path / "models" / "base")
    assert recipe.data.source == str(tmp_path / "rows.jsonl")
    assert recipe.eval.include_path == str(tmp_path / "tasks")
    other = build_recipe({"name": "x", "model": {"name": "org/model"}}, where="here")
    assert anchored(other) is other


def test_a_model_folder_that_is_gone_is_named_as_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TopicLoraError, match=rf"'./models/base': there is no such folder, seen from {tmp_path}"):
        load_base("./models/base")


def test_a_model_that_a_cleaned_cache_no_longer_has_is_named_as_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TopicLoraError, match=r"'org/gone': it is no folder .* not in the hub's cache .* be reached"):
        load_base("org/gone")
