"""The house rules about size that a machine can check: short files, and few parameters."""

import ast
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
