"""`adapter.num_experts: auto` through the real command line: chosen once, a number from then on."""

import json

import pytest
import yaml

from topiclora_cli.recipe import load_recipe
from topiclora_cli.topics.store import TopicGraph

AUTO = ["--set", "adapter.num_experts=auto"]
# Nine topics leave 2, 3 and 4 to try, of which top_k = 2 forbids none.
TOPICS = {
    "topics": [
        {"topic": name, "description": text}
        for name, text in {
            "arithmetic": "adding and multiplying whole numbers",
            "algebra": "solving equations with whole numbers",
            "proof": "proving a theorem about whole numbers",
            "poems": "writing verse that rhymes",
            "jokes": "writing a line that makes people laugh",
            "stories": "writing a tale that makes people think",
            "rivers": "naming rivers of a country on a map",
            "cities": "naming cities of a country on a map",
            "borders": "naming borders of a country on a map",
        }.items()
    ]
}


@pytest.fixture
def recipe(tiny_recipe, tmp_path):
    """The tiny recipe on nine topics of three kinds, its number of experts left open."""
    (tmp_path / "topics.yaml").write_text(yaml.safe_dump(TOPICS))
    values = yaml.safe_load(tiny_recipe.read_text())
    values["graph"] |= {"taxonomy": str(tmp_path / "topics.yaml"), "tagged_prompts": 0, "compare_seeds": 0}
    values["data"]["topics"] = None
    values["adapter"]["num_experts"] = "auto"
    tiny_recipe.write_text(yaml.safe_dump(values))
    return tiny_recipe


def number(run):
    return load_recipe(str(run / "recipe.yaml")).adapter.num_experts


def test_build_graph_says_why_and_later_stages_read_the_number(recipe, run_cli, tmp_path):
    run = tmp_path / "r"
    code, text = run_cli("build-graph", "--recipe", recipe, "--out", run, "--experts", "auto")
    assert code == 0, text
    report = json.loads((run / "graph" / "report.json").read_text())
    chosen = report["choice"]["experts"]
    assert chosen == report["experts"] == number(run)
    assert chosen in [row["experts"] for row in report["choice"]["candidates"]] == [2, 3, 4]
    assert report["choice"]["reason"] in text
    assert report["choice"]["reason"] in (run / "graph" / "report.html").read_text()
    assert run_cli("train", "--run", run)[0] == 0
    assert json.loads((run / "adapter" / "adapter_config.json").read_text())["num_experts"] == chosen


def test_train_builds_the_graph_and_takes_its_number(recipe, run_cli, tmp_path):
    run = tmp_path / "r"
    code, text = run_cli("train", "--recipe", recipe, "--out", run, "--budget", "total=30K")
    assert code == 0, text
    config = json.loads((run / "adapter" / "adapter_config.json").read_text())
    assert config["num_experts"] == number(run)
    assert config["num_experts"] == TopicGraph.load(run / "adapter" / "topic_graph").num_experts


def test_no_number_is_tried_that_shared_experts_would_exceed(recipe, run_cli, tmp_path):
    run = tmp_path / "r"
    code, text = run_cli("build-graph", "--recipe", recipe, "--out", run, "--set", "adapter.shared_experts=3")
    assert code == 0, text
    report = json.loads((run / "graph" / "report.json").read_text())
    assert [row["experts"] for row in report["choice"]["candidates"]] == [3, 4]


def test_cells_of_an_ablation_share_the_number(recipe, run_cli, tmp_path):
    run = tmp_path / "r"
    for _ in range(2):  # finished cells are taken as they are
        code, text = run_cli("ablate", *(["--run", run] if run.exists() else ["--recipe", recipe, "--out", run]))
        assert code == 0, text
    for cell in ("full-s0", "kl_off-s0"):
        assert number(run / "ablation" / cell) == number(run)
    changes = ["--set", "ablation.cells.kl_off={adapter.num_experts: auto}"]
    code, text = run_cli("ablate", "--run", run, *changes)
    assert code == 2
    assert "ablation.cells.kl_off: adapter.num_experts is auto, but all cells share" in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["adapter.method=molora"], "auto needs the topic graph, and this recipe trains molora without one"),
        (["adapter.method=perft-d"], "auto needs the topic graph, and this recipe trains perft-d without one"),
        (["adapter.experts_by_depth=[2,4]"], "experts_by_depth says how many experts there are"),
        (["adapter.init_from=[a,b]"], "init_from says how many experts there are"),
        (["adapter.top_k=5"], "finds nothing to try from 5 to 4, half of the topics"),
        (["adapter.num_experts=some"], "a number greater than or equal to 1, or auto (given: 'some')"),
        (["adapter.num_experts=0"], "a number greater than or equal to 1, or auto (given: 0)"),
    ],
)
def test_where_auto_has_no_answer(recipe, run_cli, tmp_path, changes, message):
    code, text = run_cli("train", "--recipe", recipe, "--out", "r", *(part for c in changes for part in ("--set", c)))
    assert code == 2, text
    assert message in text
    assert "Traceback" not in text
    assert not (tmp_path / "r" / "graph").exists()


def test_methods_are_listed_without_a_graph(run_cli):
    code, text = run_cli("methods", *AUTO)
    assert code == 2
    assert "--set adapter.num_experts=auto needs the topic graph" in text
