"""Results as typed values and their files: what is written is read, and what cannot be read is said in one line."""

import json
import math
from dataclasses import asdict, replace

import pytest

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.runs.results.ablation import CellScore, Difference, GridScores, Measure, Tried
from topiclora_cli.runs.results.evaluation import (
    Compared,
    EvalSummary,
    MeanScores,
    QuestionScores,
    RoutingReport,
    TaskScores,
)
from topiclora_cli.runs.results.export import Export
from topiclora_cli.runs.results.files import FORMAT, read_result, write_result
from topiclora_cli.runs.results.graph import (
    AssignmentReport,
    Candidate,
    Choice,
    Comparison,
    Contender,
    GraphReport,
    LinkReport,
    SeparationReport,
    ShapeReport,
    Spread,
)

SHARE = Compared(
    unit="share",
    higher_is_better=True,
    base=0.25,
    base_stderr=0.01,
    tuned=0.5,
    tuned_stderr=None,
    delta=0.25,
    delta_stderr=None,
)
TASK = TaskScores(
    **vars(SHARE),
    task="arc_easy",
    group=False,
    depth=0,
    counted=True,
    metric="acc",
    filter="none",
    count=8,
    metrics={"acc,none": SHARE},
)
SUMMARY = EvalSummary(
    "arc_easy",
    MeanScores(**vars(SHARE), of=("arc_easy",)),
    (TASK,),
    {"broken": "no such split"},
    RoutingReport({"maths": [0.25, 0.75]}, 1.6, 0.8, 0.1, 0.75, "training examples"),
)
SPREAD = Spread(0.5, 0.25, 0.75)
GRAPH = GraphReport(
    topics=3,
    experts=2,
    edges=2,
    shape=ShapeReport(0.5, 1.0, 2, 2, ("alone",)),
    separation=SeparationReport(-1.0, -1.0, -1.0, 180.0, 180.0),
    assignment=AssignmentReport((3, 0), 0.1, 0.0, (2,)),
    dead_experts=(1,),
    links=LinkReport(1, 0.75, 0.5),
    comparison=Comparison((0, 1), (Contender("sage", "none", True, None, SPREAD, SPREAD, SPREAD, None),)),
    attribution=None,
    choice=Choice(2, "Two it is.", -0.7, (Candidate(2, -0.5, 0.01, 0.3, 0),)),
    topics_by_expert={0: ("a", "b", "alone"), 1: ()},
)
CELL = CellScore(
    name="full",
    seeds=1,
    metric="acc",
    unit="share",
    higher_is_better=True,
    mean=0.5,
    deviation=None,
    against_full=None,
    kl=0.1,
    mutual_information=None,
    tuned={"train.learning_rate": 1e-3, "adapter.r": 8},
    edges=("train.learning_rate",),
    tried=(Tried({"train.learning_rate": 1e-3}, 2.5), Tried({"train.learning_rate": 1.0}, None)),
    measures={
        "acc": Measure("share", True, {"tasks": 0.5}, {"tasks": None}, {"lora": {"tasks": Difference(0.1, -0.1, 0.3)}})
    },
)
VALUES = [
    GRAPH,
    SUMMARY,
    replace(SUMMARY, mean=None, routing=None),
    QuestionScores({"arc_easy": {"acc,none": [0.0, 1.0]}}, None),
    Export("mean", 0.25, 0.875, 40, "held-out examples of maths", 10, 20),
    GridScores((CELL,)),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_what_is_written_is_read_and_bears_a_version(tmp_path, value):
    write_result(tmp_path / "r.json", value)
    assert json.loads((tmp_path / "r.json").read_text())["format"] == FORMAT
    assert read_result(tmp_path / "r.json", type(value)) == value


@pytest.mark.parametrize("version", [1, 2])
def test_experts_in_use_are_read_by_the_name_that_they_had(tmp_path, version):
    values = {**json.loads(json.dumps(asdict(SUMMARY))), "format": version}
    values["routing"]["effective_experts"] = values["routing"].pop("experts_in_use")
    (tmp_path / "summary.json").write_text(json.dumps(values))
    assert read_result(tmp_path / "summary.json", EvalSummary) == SUMMARY


def test_a_number_that_is_none_survives(tmp_path):
    write_result(tmp_path / "gap.json", Export("mean", math.inf, 0.0, 1))
    assert read_result(tmp_path / "gap.json", Export).kl == math.inf


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "does not exist"),
        ('{"kl":', "is not valid JSON"),
        ("[]", "is damaged"),
        ('{"format": 2, "gates": "mean", "kl": 1, "tokens": 3}', "damaged (agreement: Field required)"),
        ('{"format": 2, "gates": "mean", "kl": "x", "agreement": 1, "tokens": 3}', "damaged (kl: "),
        ('{"format": 3}', "has the format 3; this topiclora reads up to 2"),
        ('{"format": "new"}', "has the format 'new'"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_in_one_line(tmp_path, text, says):
    path = tmp_path / "gap.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(TopicLoraError) as raised:
        read_result(path, Export)
    assert str(path) in raised.value.message
    assert says in raised.value.message
    assert "\n" not in raised.value.message
    assert raised.value.hint


def test_results_of_0_1_are_read(tmp_path):
    old = {"topics": 3, "experts": 2, "edges": 2, "topics_by_expert": {"0": ["a"], "1": []}}
    old["separation"] = vars(GRAPH.separation)
    old["assignment"] = {"topics_per_expert": [3, 0], "entropy": 0.1, "modularity": 0, "isolated": []}
    (tmp_path / "report.json").write_text(json.dumps(old))
    report = read_result(tmp_path / "report.json", GraphReport)
    assert (report.shape, report.topics_by_expert) == (None, {0: ("a",), 1: ()})

    (tmp_path / "gap.json").write_text('{"gates": "mean", "kl": 0.5, "agreement": 0.75, "tokens": 3}')
    assert read_result(tmp_path / "gap.json", Export).on == "held-out examples"

    cell = {"name": "full", "seeds": 1, "metric": "acc", "unit": "share", "higher_is_better": True, "mean": 0.5}
    cell |= dict.fromkeys(("deviation", "against_full", "kl", "mutual_information"))
    (tmp_path / "results.json").write_text(json.dumps([cell]))
    assert read_result(tmp_path / "results.json", GridScores).cells[0].mean == 0.5
