"""What the tab key offers: names of recipes, runs, methods and topics, in bash as it cuts words, and without torch."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from topiclora_cli.cli import complete
from topiclora_cli.recipe import bundled_recipes
from topiclora_cli.recipe.methods import METHODS


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, topics in (("one", ["sums", "poems"]), ("two", ["common sense", "jokes"])):
        graph = tmp_path / "runs" / name / "graph"
        graph.mkdir(parents=True)
        (graph / "graph.json").write_text(json.dumps({"topics": topics}))
        (graph.parent / "run.json").write_text("{}")
    os.utime(tmp_path / "runs" / "one" / "run.json", (1, 1))
    (tmp_path / "mine.yaml").write_text("")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "other.yml").write_text("")
    return tmp_path


def test_recipes_are_offered_by_name_and_by_path(folder):
    assert complete.recipes("") == list(bundled_recipes())
    assert complete.recipes("perft-q") == ["perft-quickstart"]
    assert complete.recipes("m") == ["math50k", "mine.yaml", "more/"]
    assert complete.recipes("more/") == ["more/other.yml"]
    assert complete.recipes(f"{folder}/mi") == [f"{folder}/mine.yaml"]


def test_runs_methods_and_settings(folder):
    assert complete.runs("") == complete.runs("runs/") == ["runs/one", "runs/two"]
    assert complete.runs("runs/t") == ["runs/two"]
    assert complete.runs(f"{folder}/runs/o") == [f"{folder}/runs/one"]
    assert complete.methods("perft-") == [name for name in METHODS if name.startswith("perft-")]
    assert complete.settings("adapter.m") == [f"adapter.method={name}" for name in METHODS]
    assert complete.settings("adapter.method=dor") == ["adapter.method=dora"]
    assert complete.settings("") == complete.settings("train.") == []


def test_gates_are_the_runs_topics(folder):
    def offered(run, typed=""):
        return complete.gates(SimpleNamespace(params={"run": run}), typed)

    kinds = ["mean", "uniform", "learned"]
    assert offered("runs/one") == [*kinds, "topic:all", "topic:sums", "topic:poems"]
    assert offered(None) == [*kinds, "topic:all", "topic:common sense", "topic:jokes"]
    assert offered("runs/one", "topic:s") == ["topic:sums"]
    assert offered("nowhere", "m") == ["mean"]
    (folder / "runs" / "one" / "graph" / "graph.json").write_text("{cut o")
    assert offered("runs/one") == kinds


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["merge", "--run", "runs/one", "--gates", "topic", ":", "po"], ["poems"]),
        (["merge", "--run", "runs/one", "--gates", "topic", ":"], ["all", "sums", "poems"]),
        (["merge", "--run", "runs/two", "--gates", "topic", ":", "comm"], ["common\\ sense"]),
        (["merge", "--run", "runs/two", "--gates", "topic", ":", "common\\ s"], ["common\\ sense"]),
        (["train", "--set", "adapter.method", "=", "dor"], ["dora"]),
        (["train", "--recipe", "perft-q"], ["perft-quickstart"]),
        (["report", "runs/t"], ["runs/two"]),
    ],
)
def test_bash_gets_what_stands_in_the_place_of_its_last_word(words, offered, folder):
    heavy = "{'torch', 'peft', 'transformers', 'datasets', 'pandas', 'numpy'} & set(sys.modules)"
    code = (
        "import sys\nfrom topiclora_cli.cli.app import main\nsys.argv[0] = 'topiclora'\n"
        f"try: main()\nfinally: assert not {heavy}, {heavy}\n"
    )
    whole = ["topiclora", *words]
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={
            **os.environ,
            "_TOPICLORA_COMPLETE": "complete_bash",
            "COMP_WORDS": "\n".join(whole),
            "COMP_CWORD": str(len(words)),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines() == offered, done.stderr
