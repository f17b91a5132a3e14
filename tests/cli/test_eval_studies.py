"""`topiclora eval --routing --probe`: what lies in the evaluation's folder and in the report, and what is refused."""

import csv
import json
import math
import shutil

import pytest

from tests.conftest import write_tiny_recipe
from topiclora_cli.cli.app import main
from topiclora_cli.evaluation.probes import PROBES
from topiclora_cli.runs.outcomes import probe_studies_of, routing_studies_of
from topiclora_cli.runs.run import RunDir

TASKS = "topiclora_syllogisms,topiclora_word_sorting,topiclora_odd_one_out"
ASKED = ("--no-base", "--tasks", TASKS, "--name", "few", "--study-questions", "3")


def trained_run(tiny_model_dir, folder, *settings):
    recipe = write_tiny_recipe(folder, tiny_model_dir)
    changes = [part for setting in settings for part in ("--set", setting)]
    with pytest.raises(SystemExit) as stop:
        main(["train", "--recipe", str(recipe), "--out", str(folder / "run"), *changes, "--set", "train.max_steps=2"])
    assert not stop.value.code
    return folder / "run"


@pytest.fixture(scope="module")
def topical(tiny_model_dir, tmp_path_factory):
    return trained_run(tiny_model_dir, tmp_path_factory.mktemp("topical"))


@pytest.fixture(scope="module")
def lora(tiny_model_dir, tmp_path_factory):
    return trained_run(tiny_model_dir, tmp_path_factory.mktemp("lora"), "adapter.method=lora")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("topiclora_cli.evaluation.running._environment", dict)


def sheet(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_routing_is_studied_and_reported(topical, run_cli, tmp_path):
    run = shutil.copytree(topical, tmp_path / "run")
    code, text = run_cli("eval", "--run", run, *ASKED, "--routing")
    assert code == 0, text
    assert "Change by what is done to the routing" in text
    study = routing_studies_of(RunDir(run))["few"]
    assert (study.experts, study.questions, study.owners) == (4, 9, "the topic graph")
    assert [each.way for each in study.interfered] == [
        *(f"expert {e} off" for e in range(4)),
        *("uniform", "shuffled", "prior"),
    ]
    assert study.left_out == []
    assert len(study.texts) == 3
    assert any(token.written for token in study.texts[0])
    off = study.interfered[0]
    assert set(off.by_topic) >= {"logical reasoning", "algorithms"}
    assert off.by_topic["algorithms"].change["answer_loss"].low <= off.by_topic["algorithms"].change["answer_loss"].mean
    folder = run / "eval/few/routing"
    assert {path.name for path in folder.iterdir()} == {
        *("layers.csv", "use.csv", "experts.csv", "tokens.csv", "interference.csv", "topics.csv")
    }
    layers = sheet(folder / "layers.csv")
    assert [row["layer"] for row in layers] == ["0", "1", "all"]
    assert float(layers[0]["effective_experts"]) == pytest.approx(study.layers[0].effective_experts)
    assert len(sheet(folder / "experts.csv")) == 4 * 6  # two modules in two layers, pairs of four experts
    assert {row["layer"] for row in sheet(folder / "tokens.csv")} == {"0", "1", "all"}
    assert len(sheet(folder / "topics.csv")) == 7 * len(off.by_topic)
    before = {row["score_before"] for row in sheet(folder / "interference.csv")}
    assert len(before) == 1
    page = tmp_path / "page.html"
    assert run_cli("report", run, "--html", page, "--markdown", tmp_path / "page.md")[0] == 0
    for written in (page, tmp_path / "page.md"):
        for words in ("Routing layer by layer", "Routing interfered with", "by topic and expert switched off"):
            assert words in written.read_text()


def test_every_probe_is_asked_of_this_run_and_of_a_plain_lora(topical, lora, run_cli, tmp_path):
    run = shutil.copytree(topical, tmp_path / "run")
    asked = ("eval", "--run", run, *ASKED)
    some, others = [*PROBES][:4], [*PROBES][4:]
    each_by_itself = [part for probe in others for part in ("--probe", probe)]
    code, text = run_cli(*asked, "--probe", ",".join(some), *each_by_itself, "--against", lora)
    assert code == 0, text
    assert "Changes by probe" in text
    study = probe_studies_of(RunDir(run))["few"]
    found = {each.probe: each for each in study.probes}
    assert set(found) == set(PROBES)
    assert found["permute-options"].asked == 6
    assert found["distractor"].asked == 9
    for each in study.probes:
        assert each.moved.mean > 0
        assert each.more["answer_loss"].mean == pytest.approx(
            each.changes.change["answer_loss"].mean - each.against.change["answer_loss"].mean
        )
    assert study.between > 0
    assert study.against == lora.name
    rows = sheet(run / "eval/few/probes.csv")
    assert [row["probe"] for row in rows] == [each.probe for each in study.probes]
    assert run_cli("report", run, "--markdown", tmp_path / "page.md")[0] == 0
    assert "two different questions are" in (tmp_path / "page.md").read_text()
    joined = found["two-topics"].joined
    assert all(0 <= each.mean <= math.log(2) for pair in (joined.gates, joined.gates_from_prior) for each in pair)
    assert float(rows[list(found).index("two-topics")]["joined_gates_both_mean"]) == pytest.approx(joined.gates[0].mean)
    assert [name for name, each in found.items() if each.joined is not None] == ["two-topics"]
    before = json.loads((run / "eval/few/probes.json").read_text())
    code, text = run_cli(*asked, "--probe", "typos")
    assert code == 0, text
    again = json.loads((run / "eval/few/probes.json").read_text())
    typos = next(each for each in before["probes"] if each["probe"] == "typos")
    assert again["probes"][0]["changes"] == typos["changes"]


def test_a_method_without_routers_says_so_in_one_line_and_can_be_probed(lora, run_cli, tmp_path):
    run = shutil.copytree(lora, tmp_path / "run")
    asked = ("--no-base", "--tasks", "topiclora_syllogisms", "--name", "few", "--study-questions", "2")
    code, text = run_cli("eval", "--run", run, *asked, "--routing", "--probe", "typos")
    assert code == 0, text
    assert "The adapter (lora) has no routers, so there is no routing to study." in text
    assert not (run / "eval/few/routing.json").exists()
    (typos,) = probe_studies_of(RunDir(run))["few"].probes
    assert typos.moved is None
    assert run_cli("report", run, "--markdown", tmp_path / "page.md")[0] == 0


def test_routing_of_the_base_itself_is_measured_and_not_interfered_with(tiny_moe_dir, run_cli, tmp_path):
    settings = ("adapter.method=perft-e", "adapter.target_modules=experts")
    run = trained_run(tiny_moe_dir, tmp_path, *settings)
    code, text = run_cli("eval", "--run", run, *ASKED, "--routing")
    assert code == 0, text
    assert "base model's own here" in text
    study = routing_studies_of(RunDir(run))["few"]
    assert study.interfered == []
    assert 1 <= study.together.experts_per_token <= 2
    assert run_cli("report", run, "--markdown", tmp_path / "page.md")[0] == 0
    assert "base model's own here" in (tmp_path / "page.md").read_text()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--probe", "typo"), "There is no probe 'typo'"),
        (("--against", "elsewhere"), "none is asked for"),
        (("--probe", "typos", "--against", "elsewhere"), "elsewhere"),
        (("--routing", "--study-questions", "0"), "--study-questions"),
    ],
    ids=str,
)
def test_what_cannot_be_studied_is_said_before_anything_is_scored(more, says, topical, run_cli):
    code, text = run_cli("eval", "--run", topical, *more)
    assert code == 2
    assert says in text
    assert not (topical / "eval").exists()
