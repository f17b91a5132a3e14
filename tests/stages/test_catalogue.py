"""The table of methods: what they cost on well-known models, counted from configurations that come with the package."""

import zipfile
from pathlib import Path

import pytest

from topiclora_cli.adapters.counting import activated_base_parameters
from topiclora_cli.adapters.presets import sizes_config
from topiclora_cli.adapters.topiclora import TopicLoraConfig
from topiclora_cli.cli.console import console
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.models.base import load_skeleton
from topiclora_cli.recipe import build_recipe
from topiclora_cli.recipe.methods import METHODS
from topiclora_cli.scaling import first_step, plain_rank
from topiclora_cli.stages.catalogue import describe_methods

OLMOE, MIXTRAL = "allenai/OLMoE-1B-7B-0924", "mistralai/Mixtral-8x7B-v0.1"
# Model, method, overrides; parameters in all and activated in millions, and activated per cent of the base's, as many
# digits as published or worked out by hand from the formulas.
PUBLISHED = [
    (OLMOE, "lora-qv", ["adapter.r=4"], "0.52", "0.52", "0.041"),
    (OLMOE, "lora-qv", ["adapter.r=16"], "2.10", "2.10", "0.164"),
    (OLMOE, "lora-qv", ["adapter.r=32"], "4.19", "4.19", "0.328"),
    (OLMOE, "lora-router", [], "0.27", "0.27", "0.021"),
    (OLMOE, "lora-experts", ["adapter.r=4"], "29.36", "3.67", "0.287"),
    (MIXTRAL, "lora-qv", [], "3.41", "3.41", "0.026"),
    (MIXTRAL, "lora-experts", [], "104.86", "26.21", "0.203"),
    (OLMOE, "perft-s", ["adapter.r=4"], "0.26", "0.26", "0.020"),
    (OLMOE, "perft-s", ["adapter.r=8"], "0.52", "0.52", "0.041"),
    (OLMOE, "perft-s", ["adapter.r=16"], "1.05", "1.05", "0.082"),
    (OLMOE, "perft-s", ["adapter.r=32"], "2.10", "2.10", "0.164"),
    (OLMOE, "perft-r", ["adapter.num_experts=1", "adapter.top_k=1"], "1.08", "1.08", "0.084"),
    (OLMOE, "perft-r", ["adapter.num_experts=2", "adapter.top_k=1"], "2.16", "1.11", "0.087"),
    (OLMOE, "perft-r", ["adapter.num_experts=2", "adapter.top_k=2"], "2.16", "2.16", "0.169"),
    (OLMOE, "perft-r", ["adapter.num_experts=4", "adapter.top_k=1"], "4.33", "1.18", "0.092"),
    (OLMOE, "perft-r", ["adapter.num_experts=4", "adapter.top_k=2"], "4.33", "2.23", "0.174"),
    (OLMOE, "perft-r", ["adapter.num_experts=8", "adapter.top_k=1"], "8.65", "1.31", "0.102"),
    (OLMOE, "perft-r", ["adapter.num_experts=8", "adapter.top_k=2"], "8.65", "2.36", "0.184"),
    (OLMOE, "perft-r", ["adapter.num_experts=8", "adapter.top_k=8"], "8.65", "8.65", "0.676"),
    (OLMOE, "perft-e", ["adapter.r=4"], "16.8", "2.1", "0.16"),
    (OLMOE, "perft-e", ["adapter.r=8"], "33.6", "4.2", "0.33"),
    (OLMOE, "perft-e", ["adapter.r=16"], "67.1", "8.4", "0.66"),
    (OLMOE, "perft-e", ["adapter.r=32"], "134", "16.8", "1.31"),
    (OLMOE, "perft-d", ["adapter.num_experts=4"], "4.19", "4.19", "0.328"),
    (MIXTRAL, "perft-r", ["adapter.r=8", "adapter.num_experts=2"], "4.46", "4.46", "0.035"),
    (MIXTRAL, "perft-r", ["adapter.r=8"], "17.83", "5.24", "0.041"),
    (MIXTRAL, "perft-e", ["adapter.r=8"], "16.8", "4.19", "0.033"),
]


@pytest.mark.parametrize(("model", "method", "overrides", "total", "activated", "percent"), PUBLISHED)
def test_parameters_on_well_known_models(model, method, overrides, total, activated, percent):
    (row,) = describe_methods(model, None, [method], overrides=overrides, config_only=True)
    assert (rounded(row.total / 1e6, total), rounded(row.activated / 1e6, activated)) == (total, activated)
    # The published per cent divide by the base's 1.28 or 12.9 billion, rounded, which moves their third digit.
    assert abs(row.percent - float(percent)) <= 0.5 * 10.0 ** -digits(percent) + 0.002 * row.percent


@pytest.mark.parametrize(("model", "total", "activated"), [(OLMOE, "6.92", "1.28"), (MIXTRAL, "46.7", "12.9")])
def test_activated_parameters_of_well_known_models(model, total, activated):
    skeleton = load_skeleton(model, config_only=True)
    parameters = list(skeleton.parameters())
    assert all(parameter.is_meta for parameter in parameters)
    assert rounded(sum(p.numel() for p in parameters) / 1e9, total) == total
    assert rounded(activated_base_parameters(skeleton) / 1e9, activated) == activated


def test_a_method_that_does_not_fit_has_a_row_without_numbers(tiny_model_dir):
    rows = {row.name: row for row in describe_methods(str(tiny_model_dir), None)}
    assert set(rows) == set(METHODS)
    assert {name for name, row in rows.items() if row.rank == "does not fit"} == {
        *("lora-router", "lora-experts"),
        *(name for name, method in METHODS.items() if method.layer == "perft"),
    }
    assert rows["lora-router"].percent is None
    assert rows["lora"].percent == pytest.approx(100 * rows["lora"].total / size(tiny_model_dir))
    with pytest.raises(TopicLoraError, match=r"\(llama\) has no mixture-of-experts block"):
        describe_methods(str(tiny_model_dir), None, ["lora-router"])


def test_layers_to_adapt_can_be_named_beside_a_role():
    (row,) = describe_methods(None, None, ["hydralora"], overrides=["adapter.layers_to_transform=[0, 1]"])
    assert row.targets == "feed-forward"


def test_a_setting_that_one_method_refuses_leaves_the_list_of_the_others():
    rows = {row.name: row for row in describe_methods(None, None, overrides=["adapter.scaling=total"])}
    assert {name for name, row in rows.items() if row.rank == "does not fit"} == {"perft-e"}
    assert rows["molora"].first_step == rows["mixlora"].first_step == 1
    with pytest.raises(TopicLoraError, match="scaling: total goes by what the gates sum to"):
        describe_methods(None, None, ["perft-e"], overrides=["adapter.scaling=total"])


def test_ranks_by_depth_are_the_ranks(tiny_model_dir):
    for model in (None, str(tiny_model_dir)):
        (row,) = describe_methods(model, None, ["topiclora"], overrides=["adapter.ranks_by_depth=[2, 4]"])
        assert row.rank == "2-4"


def test_names_of_methods_are_never_cut_short(run_cli, monkeypatch):
    monkeypatch.setattr(console, "_width", 80)
    code, text = run_cli("methods")
    assert code == 0, text
    assert set(METHODS) <= set(text.split())


def test_the_command_shows_a_grid_point(run_cli):
    changes = ["--set", "adapter.r=16", "--set", "adapter.lora_dropout=0.1"]
    code, text = run_cli("methods", "lora-qv", "--model", OLMOE, "--config-only", *changes)
    assert code == 0, text
    assert text.splitlines()[0].split()[-3:] == ["total", "activated", "%"]
    assert text.splitlines()[1].split()[-3:] == ["2,097,152", "2,097,152", "0.164"]
    code, text = run_cli("methods", "molora", "--set", "adapter.num_experts=4", "--set", "adapter.top_k=1")
    assert code == 0, text
    assert "4, top-1" in text


def test_first_steps_are_against_the_plain_lora_of_as_many_expert_parameters(run_cli):
    rows = {row.name: row.first_step for row in describe_methods(None, None)}
    assert (rows["lora"], rows["dora"], rows["topiclora"], rows["perft-d"], rows["perft-s"]) == (1, 1, 1, 1, 1)
    assert (rows["molora"], rows["mola"], rows["mixlora"], rows["perft-r"]) == (1 / 8, 1 / 5, 1 / 8, 1 / 8)
    assert rows["hydralora"] == 32 / (2 * 4 * (1 + 4) / 2)  # one A, and four B on square layers
    assert rows["rslora"] == pytest.approx(8**0.5)
    assert [rows[name] for name in ("adalora", "xlora", "perft-e")] == [None] * 3
    code, text = run_cli("methods", "topiclora", "rslora", "adalora")
    assert code == 0, text
    assert [line.split()[5 if "top-2" in line else 4] for line in text.splitlines()[1:4]] == ["1.0", "2.8", "-"]


CHANGES = [
    {},
    {"r": 3, "lora_alpha": 5.0},
    {"scaling": "total"},
    {"scaling": "sqrt", "shared_experts": 2},
    {"shared_experts": 2, "shared_gate": "softmax"},
    {"num_experts": 4, "top_k": 1},
    {"num_experts": 4, "top_k": 2, "gate_weights": "probability"},
    {"top_p": 0.4, "router": "linear", "scaling": "total"},
    {"ranks_by_depth": [2, 4, 8], "experts_by_depth": [2, 6], "top_k": 2, "router": "linear", "scaling": "sqrt"},
    {"renormalize": "on", "top_k": 1},
    {"adapter_type": "parallel"},
]


@pytest.mark.parametrize("changes", CHANGES, ids=str)
@pytest.mark.parametrize("method", [name for name, each in METHODS.items() if each.layer in ("mixture", "perft")])
def test_first_steps_told_from_settings_are_those_of_the_configuration(method, changes):
    adapter = {"method": method, **changes}
    section = build_recipe({"name": "x", "model": {"name": "m"}, "adapter": adapter}, where="x", given={}).adapter
    try:
        made = sizes_config(section.layer, section.model_dump())
    except TopicLoraError:
        return  # settings that no configuration takes
    if getattr(made, "follows_base", False) or getattr(section, "adapter_type", "lora") == "parallel":
        assert first_step(section.layer, section.model_dump()) is None
        return
    layers = [made]
    if isinstance(made, TopicLoraConfig):
        numbers = range(len(made.experts_per_layer or made.ranks_per_layer or [0]))
        layers = [made.at("", number) for number in numbers]
    moved = sum(layer.scale * layer.r * layer.gates_at_start for layer in layers) / len(layers)
    expected = moved / (2 * plain_rank(section.model_dump()))
    assert first_step(section.layer, section.model_dump()) == pytest.approx(expected)


def test_under_total_a_budget_keeps_perfts_first_step():
    said = ["adapter.scaling=total", "adapter.shared_experts=2"]
    (row,) = describe_methods(OLMOE, "total=8M", ["topic-perft"], overrides=said, config_only=True)
    assert row.first_step == pytest.approx(1)


@pytest.mark.parametrize(
    ("method", "overrides", "wanted"),
    [
        ("topiclora", [], 1),
        ("topiclora", ["adapter.shared_a=true"], 1),
        ("topiclora", ["adapter.shared_experts=4", "adapter.top_k=1"], 1),
        ("topiclora", ["adapter.scaling=expert"], 1 / 8),
        ("topiclora", ["adapter.scaling=expert", "adapter.shared_experts=2"], 3 / 10),
        ("mola", ["adapter.scaling=total"], 1),
        ("molora", ["adapter.top_k=1"], 1 / 64),
        ("lora", [], 1),
    ],
)
def test_under_total_a_budget_keeps_the_first_step(method, overrides, wanted, tiny_model_dir):
    (row,) = describe_methods(str(tiny_model_dir), "total=40K", [method], overrides=overrides)
    assert row.first_step == pytest.approx(wanted)


def test_a_dense_model_can_be_counted_as_the_mixture_made_of_it(tiny_model_dir):
    (row,) = describe_methods(
        str(tiny_model_dir), None, ["perft-e"], overrides=["model.upcycle={experts: 3, top_k: 2}"]
    )
    assert (row.total, row.activated) == (2 * 3 * 2 * 32 * 16, 2 * 2 * 2 * 32 * 16)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", OLMOE], "--config-only"),
        (["--model", "nobody/nothing", "--config-only"], f"Without a download: a model on this machine, {OLMOE}"),
        (["--config-only"], "--config-only needs --model"),
        (["--budget", "total=4M"], "--budget needs --model"),
        (["--set", "adapter.method=lora"], "does not choose methods here"),
        (["--set", "model.name=x"], "does not choose the model here"),
        (["mola", "--set", "adapter.top_k=3"], r"method mola: adapter: top_k (3) cannot exceed"),
    ],
)
def test_mistakes_name_the_way_out(arguments, message, run_cli):
    code, text = run_cli("methods", *arguments)
    assert code == 2
    assert message in " ".join(text.split())


def test_the_wheel_carries_what_is_no_python(tmp_path, monkeypatch):
    build = pytest.importorskip("hatchling.build")
    monkeypatch.chdir(Path(__file__).parents[2])
    wheel = tmp_path / build.build_wheel(str(tmp_path))
    names = {"topiclora_cli/known_configs.yaml", "topiclora_cli/topics/page.html.j2"}
    assert names <= set(zipfile.ZipFile(wheel).namelist())


def digits(text):
    return len(text.partition(".")[2])


def rounded(value, like):
    return f"{value:.{digits(like)}f}"


def size(folder):
    return sum(p.numel() for p in load_skeleton(str(folder)).parameters())
