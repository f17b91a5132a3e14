"""The house rules that a machine can check: who may import whom, and what may not be loaded for --help."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "topiclora_cli"

# Lower may never import higher. A layer's members do not import one another unless they share a name.
LAYERS = [
    {"__main__"},
    {"cli"},
    {"with_peft", "api"},
    {"ablation"},
    {"stages"},
    {"reporting"},
    {"training", "evaluation", "merging"},
    {"data", "models"},
    {"topics", "adapters"},
    {"runs", "recipe"},
    {"scaling"},
    {"errors"},
]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
LM_EVAL_IN = ("choice_loss", "harness", "loading", "questions", "running", "scorer")
ONLY_IN = {
    "torch_geometric": {"topics"},
    "lm_eval": {f"evaluation/{name}.py" for name in LM_EVAL_IN},
    "typer": {"cli"},
    "rich": {"cli", "reporting"},
}
ADAPTERS_MAY_IMPORT = {"adapters", "errors", "scaling"}
NO_TORCH = {"recipe", "reporting", "runs", "errors", "scaling"}
NO_TORCH_IN = ("data/families/", "evaluation/comparison/", "evaluation/metrics.py")
# What draws a topic graph reads its tensors; tensors that are kept in a file are no results.
TORCH_AFTER_ALL = {f"reporting/topics_{name}.py" for name in ("layout", "page", "plot")} | {
    f"runs/{name}.py" for name in ("stored", "processes")
}


def modules():
    return sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or path.name != "__init__.py")


def unit(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def own_units(path: Path) -> set[str]:
    return {name.split(".")[1] for name in imports(path) if name.startswith("topiclora_cli.")} & set(RANK)


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    here = unit(path)
    for there in own_units(path) - {here}:
        assert RANK[there] > RANK[here], f"{here} must not import {there}"
    if here == "adapters":
        assert own_units(path) <= ADAPTERS_MAY_IMPORT
    relative = str(path.relative_to(PACKAGE))
    for name in imports(path):
        library = name.split(".")[0]
        if library in ONLY_IN:
            assert here in ONLY_IN[library] or relative in ONLY_IN[library], f"{relative} must not import {library}"
        if (here in NO_TORCH or relative.startswith(NO_TORCH_IN)) and relative not in TORCH_AFTER_ALL:
            assert library not in {"torch", "transformers", "peft"}, f"{relative} must not import {library}"


def test_every_unit_has_a_layer():
    assert {unit(path) for path in modules()} == set(RANK)


# What a bare typer application does not load either: torch and its kin, what reads a recipe or a run, and bars.
NOT_FOR_HELP = {
    *("torch", "transformers", "peft", "datasets", "lm_eval", "pandas", "numpy"),
    *("yaml", "topiclora_cli.recipe"),
    *("topiclora_cli.runs.run", "filelock", "topiclora_cli.reporting", "rich.progress"),
}


@pytest.mark.parametrize(
    "command", [["--help"], ["train", "--help"], ["route", "--help"], ["compare", "--help"], ["--version"]]
)
def test_help_loads_neither_torch_nor_what_reads_recipes_and_runs(command):
    code = (
        "import sys\n"
        "from topiclora_cli.cli.app import main\n"
        f"try: main({command!r})\n"
        "except SystemExit as stop: assert not stop.code\n"
        f"heavy = {NOT_FOR_HELP!r} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_comparing_runs_loads_neither_torch_nor_lm_eval():
    code = (
        "import sys\n"
        "import topiclora_cli.evaluation.comparison.compare, topiclora_cli.reporting.comparison\n"
        "heavy = {'torch', 'transformers', 'peft', 'datasets', 'lm_eval', 'pandas'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
