"""Topics and the tasks tagged with them: the raw material of the topic graph.

A taxonomy is a list of topics, each a short name with a one-line description, and optionally a table of tasks, each
tagged with some of the topics. Two topics that keep turning up on the same tasks are related; that is where the graph's
edges come from; without tasks, from descriptions reading alike. BIG-bench's keywords and MMLU's subjects are packaged,
a user's own taxonomy comes from a YAML, JSONL or CSV file.
"""

import csv
import json
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from topiclora_cli.errors import TopicLoraError

PACKAGED = ("bigbench", "mmlu")


@dataclass(frozen=True)
class Topic:
    """One node of the topic graph; `group` is a coarse heading for plots and for the hand-made control."""

    name: str
    description: str
    group: str = ""


@dataclass(frozen=True)
class Taxonomy:
    """Topics, in a fixed order, and for each task the names of its topics."""

    topics: tuple[Topic, ...]
    tasks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Topic names, in node order."""
        return tuple(topic.name for topic in self.topics)

    @property
    def texts(self) -> list[str]:
        """What the text encoder reads for each topic: its name, then its description."""
        return [f"{topic.name}: {topic.description}" for topic in self.topics]


def load_taxonomy(
    source: str | Path = "bigbench", min_tasks: int = 3, *, exclude_tasks: Collection[str] = ()
) -> Taxonomy:
    """Read a packaged taxonomy, `bigbench` or `mmlu`, or a user's YAML, JSONL or CSV file.

    A YAML file holds `topics` (a list of `topic`, `description`, optional `group`, optional `tasks`) and optionally
    `tasks` (task -> topics) and `format` (keywords that are no topics); JSONL and CSV hold one topic a line with the
    same fields, a CSV cell separating tasks by `;`. Where tasks are tagged, topics with fewer than `min_tasks` of them
    are dropped. `exclude_tasks` are task names, or names of the file's `task_sets` (BIG-bench has `bbh`), left out
    before counting: a task the model is scored on should not shape the graph.
    Raises TopicLoraError for unreadable files, duplicate or missing names, and fewer than two topics left.
    """
    label, content = _read(source)
    topics, tasks = _parse(content, label)
    tasks = _without_tasks(tasks, exclude_tasks, content.get("task_sets") or {}, label)

    # Keywords such as "zero-shot" say how a question is put, not what it is about: an expert for them has no meaning.
    formats = set(content.get("format") or ())
    counts = Counter(name for names in tasks.values() for name in names)
    kept = tuple(t for t in topics if t.name not in formats and (not tasks or counts[t.name] >= min_tasks))
    if len(kept) < 2:
        raise TopicLoraError(
            f"{label}: {len(kept)} of {len(topics)} topics left after dropping those of fewer than {min_tasks} tasks.",
            "Routing needs at least two topics: add topics or tags, or lower min_tasks.",
        )
    names = {topic.name for topic in kept}
    tagged = {task: tuple(name for name in tags if name in names) for task, tags in tasks.items()}
    return Taxonomy(kept, {task: tags for task, tags in tagged.items() if tags})


def _read(source: str | Path) -> tuple[str, dict[str, Any]]:
    """Return a label for messages and the file's content in the YAML layout."""
    if source in PACKAGED:
        text = resources.files(__package__).joinpath(f"{source}.yaml").read_text(encoding="utf-8")
        return str(source), yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    path = Path(source)
    kind = path.suffix.lower()
    if not path.is_file():
        raise TopicLoraError(
            f"Taxonomy file {path} does not exist.", f"Give a file, or a packaged one: {', '.join(PACKAGED)}."
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
        if kind in (".yaml", ".yml"):
            content = yaml.safe_load(text)
            content = {"topics": content} if isinstance(content, list) else content
        elif kind == ".jsonl":
            content = {"topics": [json.loads(line) for line in text.splitlines() if line.strip()]}
        elif kind == ".csv":
            content = {"topics": [_csv_row(row) for row in csv.DictReader(text.splitlines())]}
        else:
            raise TopicLoraError(f"Taxonomy file {path} has an unknown type.", "Use .yaml, .jsonl or .csv.")
    except (yaml.YAMLError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise TopicLoraError(f"Taxonomy file {path} cannot be parsed: {reason}", f"Mend it as {kind[1:]}.") from None
    if not isinstance(content, dict):
        raise TopicLoraError(f"Taxonomy file {path} holds no topics.", "Give it a list under the key 'topics'.")
    return str(path), content


def _csv_row(row: dict[str, Any]) -> dict[str, Any]:
    tasks = [task.strip() for task in (row.get("tasks") or "").split(";") if task.strip()]
    return {**row, "tasks": tasks}


def _parse(content: dict[str, Any], label: str) -> tuple[list[Topic], dict[str, list[str]]]:
    """Check the entries and gather the tags given from either side, topic -> tasks and task -> topics."""
    entries = content.get("topics")
    if not isinstance(entries, list) or not entries:
        raise TopicLoraError(f"{label}: the list 'topics' is empty or missing.", "List at least two topics.")
    if not isinstance(content.get("tasks") or {}, dict):
        raise TopicLoraError(f"{label}: 'tasks' must map each task to its topics.", "Write 'task: [topic, topic]'.")
    topics: list[Topic] = []
    tasks = {str(task): [str(tag) for tag in tags or ()] for task, tags in (content.get("tasks") or {}).items()}
    for number, entry in enumerate(entries, start=1):
        fields = entry if isinstance(entry, dict) else {}
        name, description = (str(fields.get(key) or "").strip() for key in ("topic", "description"))
        if not name or not description:
            missing = "description" if name else "topic"
            raise TopicLoraError(
                f"{label}: topic {number} has no '{missing}'.", "Each needs a topic and a description."
            )
        topics.append(Topic(name, description, str(fields.get("group") or "").strip()))
        for task in fields.get("tasks") or ():
            tasks.setdefault(str(task), []).append(name)

    repeated = [name for name, count in Counter(topic.name for topic in topics).items() if count > 1]
    if repeated:
        raise TopicLoraError(
            f"{label}: topic '{repeated[0]}' is listed more than once.", "Give each topic its own name."
        )
    known = {topic.name for topic in topics} | set(content.get("format") or ())
    for task, tags in tasks.items():
        unknown = sorted(set(tags) - known)
        if unknown:
            raise TopicLoraError(
                f"{label}: task '{task}' has the unknown topic '{unknown[0]}'.", "List it in 'topics'."
            )
    return topics, {task: list(dict.fromkeys(tags)) for task, tags in tasks.items()}


def _without_tasks(
    tasks: dict[str, list[str]], exclude: Collection[str], task_sets: Mapping[str, list[str]], label: str
) -> dict[str, list[str]]:
    names = [exclude] if isinstance(exclude, str) else exclude
    banned: set[str] = set()
    for name in names:
        if name not in tasks and name not in task_sets:
            raise TopicLoraError(f"{label}: no task or task set is called '{name}'.", "Mend exclude_tasks.")
        banned |= set(task_sets.get(name, ())) | {name}
    return {task: tags for task, tags in tasks.items() if task not in banned}
