"""From a packaged or a user's file to one layout, that of YAML.

A YAML file holds `topics`, a list of entries with `topic` and, as far as there are any, `description`, `group`, `tasks`
(a list) and `examples` (a list of prompts); and optionally `tasks` (task -> topics), `format` (keywords that are no
topics) and `task_sets` (name -> tasks). JSONL holds one entry a line. So does CSV, under a header, with `;` between
tasks and without examples, as no separator is safe for prompts. BIG-bench's keywords and MMLU's subjects are packaged.
"""

import csv
import io
import json
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe.yaml_text import read_yaml

PACKAGED = ("bigbench", "mmlu")
KEYS = ("topics", "tasks", "format", "task_sets")
FIELDS = ("topic", "description", "group", "tasks", "examples")
COLUMNS = FIELDS[:-1]


def read(source: str | Path) -> tuple[str, dict[str, Any]]:
    """A label for messages, and the content in the layout of YAML; raises TopicLoraError for what cannot be read."""
    if source in PACKAGED:
        text = resources.files(__package__).joinpath(f"{source}.yaml").read_text(encoding="utf-8")
        return str(source), read_yaml(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    path = Path(source)
    kind = path.suffix.lower()
    if not path.is_file():
        raise TopicLoraError(
            f"Taxonomy file {path} does not exist.", f"Give a file, or a packaged one: {', '.join(PACKAGED)}."
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
        if kind in (".yaml", ".yml"):
            content = read_yaml(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
            content = {"topics": content} if isinstance(content, list) else content
        elif kind == ".jsonl":
            content = {"topics": _json_lines(text)}
        elif kind == ".csv":
            content = {"topics": _csv_rows(text, path)}
        else:
            raise TopicLoraError(f"Taxonomy file {path} has an unknown type.", "Use .yaml, .jsonl or .csv.")
    except TopicLoraError:
        raise
    except UnicodeDecodeError as error:
        place = f"byte {error.start + 1}"
        raise TopicLoraError(f"Taxonomy file {path} is not UTF-8 text ({place}).", "Save it as UTF-8.") from None
    except (OSError, yaml.YAMLError, csv.Error, ValueError) as error:
        reason = " ".join(str(error).split())
        raise TopicLoraError(f"Taxonomy file {path} cannot be parsed: {reason}", f"Mend it as {kind[1:]}.") from None
    if not isinstance(content, dict):
        raise TopicLoraError(f"Taxonomy file {path} holds no topics.", "Give it a list under the key 'topics'.")
    return str(path), content


def _json_lines(text: str) -> list[Any]:
    entries = []
    for number, line in enumerate(text.split("\n"), start=1):
        try:
            entries += [json.loads(line)] if line.strip() else []
        except json.JSONDecodeError as error:
            raise ValueError(f"line {number}: {error.msg} at column {error.colno}") from None
    return entries


def _csv_rows(text: str, path: Path) -> list[dict[str, Any]]:
    """One entry a row, without empty cells; raises TopicLoraError for a header that names no topics."""
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    columns = [(name or "").strip() for name in reader.fieldnames or ()]
    reader.fieldnames = columns
    unknown = [name for name in columns if name not in COLUMNS]
    if "topic" not in columns or unknown:
        problem = f"an unknown column {unknown[0]!r}" if "topic" in columns else "no column 'topic'"
        raise TopicLoraError(
            f"{path}: the first line, {','.join(columns)!r}, has {problem}.",
            f"Begin with the names of columns: {', '.join(COLUMNS)}.",
        )
    rows = []
    for row in reader:
        if None in row:
            raise TopicLoraError(
                f"{path}: line {reader.line_num} has more cells than the header.", "Quote cells that hold commas."
            )
        entry: dict[str, Any] = {key: cell for key, cell in row.items() if (cell or "").strip()}
        if "tasks" in entry:
            entry["tasks"] = [task.strip() for task in entry["tasks"].split(";") if task.strip()]
        rows.append(entry)
    return rows
