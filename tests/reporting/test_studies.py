"""Studies of routing and probes as sections of a report: what is strong, what is missing, what has its own name."""

from dataclasses import replace

from topiclora_cli.reporting.changes import change
from topiclora_cli.reporting.probed import probes_table
from topiclora_cli.reporting.routed import _by_topic, _interfered, _layers, study_tables
from topiclora_cli.reporting.sections import Text
from topiclora_cli.reporting.table import Table, as_html, as_markdown
from topiclora_cli.runs.results.interval import Interval
from topiclora_cli.runs.results.routing import (
    Changes,
    Interfered,
    LayerRouting,
    Probed,
    ProbeStudy,
    RoutingStudy,
    TokenGates,
    TopicChange,
)

LOST, NOTHING = Interval(0.4, 0.2, 0.6), Interval(0.1, -0.1, 0.3)
CHANGES = Changes({"answer_loss": 1.0}, {"answer_loss": 1.4}, {"answer_loss": LOST})
LAYER = LayerRouting(0, 2, 1, 0.5, 1.5, 1.8, 0.3, 0.6, 0.2, 0.05, 0.001, (0.0, 0.1), None, None, None, (0.6, 0.4))


def off(expert):
    topics = {"few": TopicChange(4, {"answer_loss": LOST}), "many": TopicChange(12, {"answer_loss": LOST})}
    topics["unmoved"] = TopicChange(12, {"answer_loss": NOTHING})
    return Interfered(f"expert {expert} off", CHANGES, topics, expert, LOST, NOTHING, LOST)


STUDY = RoutingStudy(
    experts=2,
    examples=8,
    on="held-out examples",
    questions=12,
    layers=(LAYER,),
    together=replace(LAYER, layer=None),
    cosine=((1.0, 0.1), (0.1, 1.0)),
    cka=(),
    texts=((TokenGates("A\n|", False, (0.9, 0.1)), TokenGates(" <b>", True, (0.2, 0.8))),),
    interfered=(off(0), off(1)),
    owners="the topic graph",
)


def test_a_change_is_strong_where_its_interval_leaves_out_nothing():
    assert (change(LOST).text, change(LOST).strong) == ("+0.40 (+0.20 to +0.60)", True)
    assert change(NOTHING, share=True).text == "+10.0 (-10.0 to +30.0)"
    assert not change(NOTHING).strong
    assert change(None).text == "-"


def test_a_topic_of_few_questions_is_never_strong():
    rows = {row[0].text: row for row in _by_topic(STUDY).rows}
    assert [cell.strong for cell in rows["few"][2:]] == [False, False]
    assert [cell.strong for cell in rows["many"][2:]] == [True, True]
    assert [cell.strong for cell in rows["unmoved"][2:]] == [False, False]
    assert rows["many"][1].text == "12"


def test_the_three_measures_of_experts_have_a_name_each():
    table = study_tables(STUDY)[0]
    names = [column.heading for column in table.columns]
    assert {"experts per token", "effective experts of a router"} <= set(names)
    first = dict(zip(names, (cell.text for cell in table.rows[0]), strict=True))
    assert (first["effective experts of a router"], first["mutual information, nats"]) == ("1.80 of 2", "+0.150")
    assert (first["CKA"], first["agrees with prior, %"]) == ("-", "-")


def test_every_part_can_be_written_whatever_a_token_is():
    parts = [*_layers(STUDY), *_interfered(STUDY), *_interfered(replace(STUDY, interfered=(), left_out=("No graph.",)))]
    tables = [part for part in parts if isinstance(part, Table)]
    assert Text("No graph.") in parts
    text = "".join(map(as_markdown, tables))
    assert "A⏎\\|" in text
    assert "→ \\<b>" in text
    assert "<b>" not in "".join(map(as_html, tables))


def test_probes_without_routers_say_nothing_of_routing():
    plain = ProbeStudy([Probed("typos", 4, CHANGES)], 4, 0)
    assert [column.heading for column in probes_table(plain).columns] == ["probe", "n", "answer loss, nats ↓"]
    moved = ProbeStudy([Probed("typos", 4, CHANGES, LOST, NOTHING)], 4, 0)
    assert [cell.text for cell in probes_table(moved).rows[0]][-2:] == [
        "0.400 (0.200 to 0.600)",
        "0.100 (-0.100 to 0.300)",
    ]
