"""The house rules that a machine can check: who may import whom, and what may not be loaded for --help."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
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
    {"training", "evaluation", "merging", "importing", "serving"},
    {"data", "models"},
    {"topics", "adapters"},
    {"runs", "recipe"},
    {"scaling"},
    {"errors"},
]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
LM_EVAL_IN = (
    *("asking", "choice_loss", "file_tasks", "harness", "loading", "questions", "running", "scorer", "stock"),
    *("subject", "task_index", "vllm"),
)
ONLY_IN = {
    "torch_geometric": {"topics"},
    "lm_eval": {f"evaluation/{name}.py" for name in LM_EVAL_IN},
    "typer": {"cli"},
    "rich": {"cli", "reporting"},
    **{library: {"ablation"} for library in ("optuna", "ray")},
    **{library: {"serving"} for library in ("aiohttp", "starlette", "uvicorn")},
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


# What a result is made of has names: a mapping of anything crosses a room's border in these places alone.
SEEN = {"__init__", "__call__", "__iter__", "__enter__"}
LOOSE = re.compile(r"\b(?:dict|Mapping|MutableMapping)\[str, (?:Any|object)\]")
RAW = {
    # Keys of a recipe with their values; within recipe/ all is as YAML has it, before it is a Recipe.
    "api.given": {"Overrides"},
    "runs.results.record": {"Settings"},
    # What an outcome was asked for, compared as JSON as a whole.
    "runs.naming": {"named_folder", "finished"},
    "stages.request": {"request_of"},
    # The settings of a peft config by peft's names, most of them a recipe's.
    "scaling": {"stock_law", "plain_rank", "first_step"},
    "adapters.presets": {"make_config", "sizes_config"},
    "adapters.stock": {"moves_base"},
    "adapters.init_from": {"LoraSources"},
    # The settings of a graph as its file has them, of whichever version.
    "topics.store": {"TopicGraph"},
    "topics.settings": {"GraphSettings"},
    # The settings of a foreign checkpoint as its publisher names them.
    "importing.checkpoint": {"Checkpoint"},
    # Rows of a table of datasets' or of a stream.
    "data.stream": {"ExampleStream"},
    "training.collate": {"Collator"},
    "training.prior_columns": {"Row"},
    # A batch as transformers' and TRL's trainers hand it on.
    "training.topic_prior": {"TopicPriorMixin"},
}


def annotations(node: ast.AST) -> Iterator[str]:
    """Of a function its own; of a class those of its public fields and methods."""
    if isinstance(node, ast.FunctionDef):
        given = node.args
        every = (*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg)
        found = [*(arg.annotation for arg in every if arg is not None), node.returns]
        yield from (ast.unparse(each) for each in found if each is not None)
    elif isinstance(node, ast.ClassDef):
        for child in node.body:
            name = getattr(child, "name", "") or ast.unparse(getattr(child, "target", ast.Constant("")))
            if isinstance(child, ast.AnnAssign) and not name.startswith("_"):
                yield ast.unparse(child.annotation)
            elif isinstance(child, ast.FunctionDef) and (not name.startswith("_") or name in SEEN):
                yield from annotations(child)
    elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Subscript | ast.BinOp):
        yield ast.unparse(node.value)  # an alias of a type, if it is one


Place = tuple[str, str]  # a module and a name in it


def read_names() -> tuple[dict[Place, list[str]], dict[Place, Place]]:
    """The annotations of every public function, class and alias of types, and where each imported name comes from."""
    defined: dict[Place, list[str]] = {}
    imported: dict[Place, Place] = {}
    for path in PACKAGE.rglob("*.py"):
        module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGE.name):
                imported |= {(module, a.asname or a.name): (str(node.module), a.name) for a in node.names}
        for node in tree.body:
            targets = [each.id for each in getattr(node, "targets", ()) if isinstance(each, ast.Name)]
            for name in targets or [getattr(node, "name", "_")]:
                if not name.startswith("_"):
                    defined[module, name] = list(annotations(node))
    return defined, imported


def crossing() -> dict[Place, list[str]]:
    """What another room imports, and what the annotations of that name in turn, with their own annotations."""
    defined, imported = read_names()

    def origin(place: Place) -> Place | None:
        # A package that imports its own modules has their names from itself.
        while place not in defined and imported.get(place, place) != place:
            place = imported[place]
        return place if place in defined else None

    def room(place: Place) -> str:
        return place[0].split(".")[1] if "." in place[0] else ""

    found: dict[Place, list[str]] = {}
    new = {place for here, there in imported.items() if (place := origin(there)) and room(place) != room(here)}
    while new:
        found |= {place: defined[place] for place in new}
        words = {(module, word) for module, name in new for word in re.findall(r"\w+", " ".join(found[module, name]))}
        new = {place for each in words if (place := origin(each))} - found.keys()
    return found


def test_results_cross_the_borders_of_rooms_under_names_of_their_own():
    loose = {
        (module.removeprefix(f"{PACKAGE.name}."), name)
        for (module, name), seen in crossing().items()
        if any(LOOSE.search(text) for text in seen)
    }
    loose = {(module, name) for module, name in loose if module.split(".")[0] != "recipe"}
    allowed = {(module, name) for module, names in RAW.items() for name in names}
    new, idle = sorted(loose - allowed), sorted(allowed - loose)
    assert not new, (
        f"{new} show other rooms a mapping of anything: name its parts in a dataclass, or say in RAW why not"
    )
    assert not idle, f"{idle} need their place in RAW no more"


# What a bare typer application does not load either: torch and its kin, what reads a recipe or a run, and bars.
NOT_FOR_HELP = {
    *("torch", "transformers", "peft", "datasets", "lm_eval", "pandas", "numpy"),
    *("yaml", "topiclora_cli.recipe"),
    *("topiclora_cli.runs.run", "filelock", "topiclora_cli.reporting", "rich.progress"),
}


@pytest.mark.parametrize(
    "command",
    [["--version"], ["--help"], *([name, "--help"] for name in ("train", "route", "compare", "serve", "ablate"))],
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


@pytest.mark.parametrize("command", [["methods"], ["methods", "mola", "--sources"]])
def test_listing_methods_loads_no_torch(command):
    code = (
        "import sys\n"
        "from topiclora_cli.cli.app import main\n"
        f"try: main({command!r})\n"
        "except SystemExit as stop: assert not stop.code\n"
        "heavy = {'torch', 'transformers', 'peft', 'datasets', 'lm_eval', 'pandas', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_where_a_run_s_adapter_lies_is_asked_of_the_run():
    spelt = re.compile(r"path / (ADAPTER\b|\"adapter\")")
    said = [str(path.relative_to(PACKAGE)) for path in modules() if spelt.search(path.read_text())]
    assert said == ["runs/run.py"], "an imported adapter lies at the top of its run: ask RunDir.adapter"
