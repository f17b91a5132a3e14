"""What README and the documentation show works as it stands: pasted, it is read, parsed or imported."""

import ast
import importlib
import re
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup

import topiclora_cli as topiclora
from tests.docs.pages import PAGES, ROOT, blocks, commands, inline, notebook, prose
from topiclora_cli.cli.app import app
from topiclora_cli.data.task_file import read_task_file
from topiclora_cli.recipe import build_recipe, bundled_recipes, load_recipe, parse_override
from topiclora_cli.recipe.keys import recipe_keys
from topiclora_cli.recipe.overrides import read_yaml
from topiclora_cli.topics.taxonomy import load_taxonomy

LEAST = {"name": "mine", "model": {"name": "some/model"}}
KEYS = {key.name for key in recipe_keys()}
SECTIONS = {name.split(".")[0] for name in KEYS if "." in name}
KEY = re.compile(rf"(?:{'|'.join(sorted(SECTIONS))})(?:\.(?!png\b|yaml\b|jsonl?\b|md\b)[a-z_]+)+")
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")
# Options that act as soon as they are read; the third writes into the home of whoever runs the tests.
ACTING = {"--help", "--version", "--install-completion", "--show-completion"}
ROOT_COMMAND = typer.main.get_command(app)
YAML = blocks("yaml")
SHELL = [
    *[(f"{block.page}: {' '.join(words)}", words) for block in blocks("sh") for words in commands(block.text)],
    *[
        (f"{path.name}: {text}", words)
        for path in PAGES
        for text in inline(path)
        if text.startswith("topiclora ")
        for words in commands(text)
    ],
]
each_page = pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)


def parsed(words):
    """What the command line makes of the arguments, without running them."""
    command, name = ROOT_COMMAND, "topiclora"
    while isinstance(command, TyperGroup) and words and not words[0].startswith("-"):
        name, *words = words
        context = command.make_context("topiclora", ["-"], resilient_parsing=True)
        command = command.get_command(context, name)
        assert command is not None, f"{name!r} is no command"
    if ACTING.intersection(words):
        return {}
    return command.make_context(name, list(words)).params if words else {}


@pytest.mark.parametrize("block", [each for each in YAML if not each.kind], ids=str)
def test_yaml_is_part_of_a_recipe(block):
    build_recipe({**LEAST, **read_yaml(block.text)}, where=block.page)


def test_blocks_that_are_no_recipe_say_what_they_are():
    assert {block.kind for block in YAML} <= {"", "a taxonomy", "a registry of sources", "a task file"}


@pytest.mark.parametrize("block", [each for each in YAML if each.kind == "a task file"], ids=str)
def test_a_task_file_is_one(block, tmp_path):
    path = tmp_path / "quiz.yaml"
    path.write_text(block.text, encoding="utf-8")
    assert read_task_file(path).task == "quiz"


@pytest.mark.parametrize("block", [each for each in YAML if each.kind == "a taxonomy"], ids=str)
def test_a_taxonomy_keeps_all_of_its_topics(block, tmp_path):
    path = tmp_path / "topics.yaml"
    path.write_text(block.text, encoding="utf-8")
    assert len(load_taxonomy(path).topics) == len(read_yaml(block.text)["topics"])


@pytest.mark.parametrize("block", [each for each in YAML if each.kind == "a registry of sources"], ids=str)
def test_a_registry_of_sources_is_found_by_its_names(block, tmp_path):
    path = tmp_path / "sources.yaml"
    path.write_text(block.text, encoding="utf-8")
    for name in read_yaml(block.text):
        build_recipe({**LEAST, "data": {"sources_file": str(path), "source": name}}, where=block.page)


def test_the_documented_recipe_has_no_more_experts_than_the_documented_taxonomy_has_topics():
    taxonomy = next(read_yaml(block.text) for block in YAML if block.kind == "a taxonomy")
    recipe = next(read_yaml(block.text) for block in YAML if "taxonomy: topics.yaml" in block.text)
    assert recipe["adapter"]["num_experts"] <= len(taxonomy["topics"])


@pytest.mark.parametrize("words", [words for _, words in SHELL], ids=[label for label, _ in SHELL])
def test_a_command_is_one(words):
    given = parsed(words)
    changes = list(given.get("overrides") or [])
    for change in changes:
        assert parse_override(change)[0] in KEYS
    if budget := given.get("budget"):
        changes.append(f"adapter.budget={budget}")
    if (recipe := given.get("recipe")) in bundled_recipes():
        load_recipe(recipe, changes)
    else:
        assert recipe is None or Path(recipe).suffix == ".yaml"


def test_commands_were_found():
    assert len(SHELL) > 50


@each_page
def test_keys_in_the_text_are_keys_of_a_recipe(path):
    named = [name for text in inline(path) for name in [KEY.match(text.removeprefix("--set "))] if name]
    assert [name[0] for name in named if name[0] not in KEYS] == []


@pytest.mark.parametrize("block", [*blocks("python"), notebook()], ids=str)
def test_python_imports_what_there_is(block):
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("topiclora_cli"):
            module = importlib.import_module(node.module)
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "topiclora":
            assert hasattr(topiclora, node.attr), node.attr


@each_page
def test_links_lead_to_files_and_headings(path):
    for target, anchor in LINK.findall(prose(path)):
        page = path.parent / target if target else path
        if _is_made(page):
            continue
        assert page.exists(), target
        if anchor:
            assert anchor in {_slug(line) for line in page.read_text().splitlines() if line.startswith("#")}


def test_the_readme_fits_a_screen_and_says_how_to_test():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.encode()) < 6000
    assert "`make test`" in text


def _is_made(page):
    """Whether the build makes it; mkdocs checks links to such pages."""
    return page.parent.name in ("reference", "pictures") or page.name in ("notebook.md", "changelog.md")


def _slug(heading):
    return re.sub(r"[^\w\- ]", "", heading.lstrip("# ").lower()).replace(" ", "-")
