"""Axes of a grid as they are typed, and the cells that they span."""

import pytest

from topiclora_cli.ablation.axes import LONGEST, Axis, as_text, cells_of, parse_axes, parse_axis
from topiclora_cli.errors import TopicLoraError


@pytest.mark.parametrize(
    ("text", "points"),
    [
        ("adapter.r=4,8, 16", (4, 8, 16)),
        ("train.learning_rate=1e-3,3e-4", (1e-3, 3e-4)),
        ("adapter.target_modules=[q_proj],[q_proj, v_proj]", (["q_proj"], ["q_proj", "v_proj"])),
        ('data.prompt="a, b",don\'t', ("a, b", "don't")),
        ("loss.kl={weight: 0.1, floor: 0},null", ({"weight": 0.1, "floor": 0}, None)),
        ("adapter.router_scope=layer", ("layer",)),
        ("data.source=hub:a,b=c", ("hub:a", "b=c")),
    ],
)
def test_values_are_yaml_and_commas_in_brackets_and_quotes_stay(text, points):
    assert parse_axis(text) == Axis((text.partition("=")[0],), tuple((point,) for point in points))


def test_keys_that_are_linked_move_together():
    axis = parse_axis("adapter.num_experts+adapter.r=2:32,4:16, 8 : 8")
    assert axis == Axis(("adapter.num_experts", "adapter.r"), ((2, 32), (4, 16), (8, 8)))
    assert list(cells_of([axis], one_factor=False)) == ["num_experts=2-r=32", "num_experts=4-r=16", "num_experts=8-r=8"]


def test_an_old_name_of_a_loss_is_the_key_of_now():
    with pytest.warns(UserWarning, match="is called"):
        assert parse_axis("loss.kl_weight=0,0.1").keys == ("loss.kl.weight",)


AXES = parse_axes(["adapter.r=4,8", "loss.kl.weight=0,0.1"])


def test_cells_are_the_product_of_all_axes():
    assert cells_of(AXES, one_factor=False) == {
        "r=4-kl_weight=0": {"adapter.r": 4, "loss.kl.weight": 0},
        "r=4-kl_weight=0.1": {"adapter.r": 4, "loss.kl.weight": 0.1},
        "r=8-kl_weight=0": {"adapter.r": 8, "loss.kl.weight": 0},
        "r=8-kl_weight=0.1": {"adapter.r": 8, "loss.kl.weight": 0.1},
    }


def test_one_factor_takes_each_axis_alone():
    assert cells_of(AXES, one_factor=True) == {
        "r=4": {"adapter.r": 4},
        "r=8": {"adapter.r": 8},
        "kl_weight=0": {"loss.kl.weight": 0},
        "kl_weight=0.1": {"loss.kl.weight": 0.1},
    }


def test_names_are_folders_that_tell_cells_apart():
    two = parse_axes(["graph.steps=1", "train.epochs=2"])
    assert list(cells_of(two, one_factor=False)) == ["steps=1-epochs=2"]
    alike = parse_axes(["graph.layers=1,2", "loss.kl.layers=all"])
    assert next(iter(cells_of(alike, one_factor=False))) == "layers=1-kl_layers=all"
    same = parse_axes(["graph.width=16", "loss.normal.width=2", "adapter.width=3"])
    assert next(iter(cells_of(same, one_factor=False))) == "graph.width=16-normal_width=2-adapter.width=3"
    modules = parse_axes(["adapter.target_modules=[q_proj,v_proj],all-linear", "data.source=a/b.jsonl", "x=true"])
    assert next(iter(cells_of(modules, one_factor=False))) == "target_modules=q_proj+v_proj-source=a_b.jsonl-x=true"
    assert list(cells_of(parse_axes(["graph.exclude_tasks=[],[a]"]), one_factor=False))[1] == "exclude_tasks=a"
    assert as_text([]) == "[]"
    long = parse_axes([f"data.prompt={'a' * 200},{'a' * 201}"])
    names = list(cells_of(long, one_factor=False))
    assert len(set(names)) == 2
    assert max(map(len, names)) <= LONGEST + 7
    with pytest.raises(TopicLoraError, match="two cells would be called 'source=a_b'"):
        cells_of(parse_axes(["data.source=a/b,a_b"]), one_factor=False)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["adapter.r"], "--grid 'adapter.r' is not of the form key=value,value. Example"),
        (["=4"], "is not of the form"),
        (["adapter.r+=4:5"], "is not of the form"),
        (["adapter.r=4,,8"], "--grid adapter.r: a value is missing"),
        (["adapter.r="], "a value is missing"),
        (["adapter.r=4,8,4.0"], "--grid adapter.r has the value 4 twice"),
        (["adapter.r=[4"], r"'\[4' is not a YAML value"),
        (["adapter.r=4", "adapter.r=8"], "adapter.r has two axes. Give all its values in one: --grid adapter.r=a,b,c"),
        (["loss.kl={weight: 1}", "loss.kl.weight=2"], "loss.kl.weight has two axes"),
        (["adapter.r=4", "adapter.top_k+adapter.r=1:8"], "adapter.r has two axes"),
        (["adapter.top_k+adapter.r=1:8,2"], "'2' has 1 of 2 values, one for each key"),
    ],
)
def test_mistakes(texts, message):
    with pytest.raises(TopicLoraError, match=message):
        parse_axes(texts)
