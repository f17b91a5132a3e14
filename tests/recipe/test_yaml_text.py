"""YAML that no program can read to its end is refused in one line, wherever it stands."""

import sys

import pytest
import yaml

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe import load_recipe
from topiclora_cli.recipe.yaml_text import read_yaml
from topiclora_cli.topics.taxonomy_file import read

ENDLESS = "an alias .* within what it names"
RECIPE = "name: r\nmodel: {name: m}\n"


@pytest.mark.parametrize("text", ["&a [*a]", "&a {x: *a}", "x: &a\n  y: [1, {z: *a}]", "&a [&b [*a], *b]"])
def test_an_alias_within_what_it_names_is_refused(text):
    with pytest.raises(yaml.YAMLError, match=ENDLESS):
        read_yaml(text)


def test_an_alias_elsewhere_is_read():
    assert read_yaml("[&a {x: &b [1]}, *a, *b, *a]") == [{"x": [1]}, {"x": [1]}, [1], {"x": [1]}]


def test_what_is_nested_too_deep_is_refused():
    depth = sys.getrecursionlimit()  # which libraries raise
    with pytest.raises(yaml.YAMLError, match="nested too deep"):
        read_yaml("[" * depth + "]" * depth)


@pytest.mark.parametrize("text", ["a: 1\nb: 2\na: 3", "x: {y: 1, z: 2, 'y': 3}"])
def test_a_key_that_stands_twice_in_a_mapping_is_refused_with_its_place(text):
    with pytest.raises(yaml.YAMLError, match=r"(?s)the key '[ay]' stands there twice.*line"):
        read_yaml(text)


def test_what_a_merged_mapping_brings_may_be_said_anew():
    one, other = {"x": 1, "y": 2}, {"x": 3, "y": 2}
    assert read_yaml("- &a {x: 1, y: 2}\n- {<<: *a, x: 3}\n- *a") == [one, other, one]


@pytest.mark.parametrize(
    "section",
    ["ablation: {cells: &a {x: *a}}", "ablation: &a {cells: {x: {y: *a}}}", "loss: &a {kl: *a}", "x: &a [*a]"],
)
def test_a_recipe_that_holds_itself_is_one_line(section, tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE + section)
    with pytest.raises(TopicLoraError, match=rf"r\.yaml is not valid YAML: {ENDLESS}"):
        load_recipe(str(path))


def test_an_override_that_holds_itself_is_one_line(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE)
    with pytest.raises(TopicLoraError, match=f"--set ablation.cells: .*{ENDLESS}"):
        load_recipe(str(path), ["ablation.cells=&a {x: *a}"])


def test_a_taxonomy_that_holds_itself_is_one_line(tmp_path):
    path = tmp_path / "t.yaml"
    path.write_text("topics: &a\n  - topic: x\n    tasks: *a")
    with pytest.raises(TopicLoraError, match=rf"t\.yaml cannot be parsed: {ENDLESS}"):
        read(path)
