"""The house rules that a machine can check: short files, few parameters, and no path in a text that leads nowhere."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "topiclora_cli"
MOST_LINES, MOST_PARAMETERS = 300, 10
FILES = pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))


@FILES
def test_a_file_is_short(path):
    assert len(path.read_text().splitlines()) <= MOST_LINES


@FILES
def test_a_function_takes_few_parameters(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            given = node.args
            names = [arg.arg for arg in (*given.posonlyargs, *given.args, *given.kwonlyargs) if arg.arg != "self"]
            names += [arg.arg for arg in (given.vararg, given.kwarg) if arg is not None]
            where = f"{getattr(node, 'name', 'lambda')} at line {node.lineno}"
            assert len(names) <= MOST_PARAMETERS, f"{where} takes {len(names)}: {', '.join(names)}"


TEXTS = ["README.md", "Makefile", *(f"docs/{path.name}" for path in sorted((PACKAGE.parent / "docs").glob("*.md")))]


@pytest.mark.parametrize("name", TEXTS)
def test_every_file_and_folder_of_ours_that_a_text_names_is_there(name):
    text = (PACKAGE.parent / name).read_text()
    rooms = "|".join(each.name for each in PACKAGE.iterdir() if each.is_dir() and each.name != "__pycache__")
    named = {PACKAGE / each for each in re.findall(rf"`((?:{rooms})/(?:[\w/]+\.(?:py|yaml)|[\w/]*/)?)`", text)}
    named |= {PACKAGE.parent / each for each in re.findall(r"\btests/[\w/]+(?:\.py)?", text)}
    assert named or name != "docs/architecture.md"
    assert [str(each) for each in named if not each.exists()] == []


def test_test_files_have_names_of_their_own():
    """pytest imports them by name alone, as their folders are no packages."""
    names = [path.name for path in Path(__file__).parent.rglob("test_*.py")]
    assert len(names) == len(set(names))
