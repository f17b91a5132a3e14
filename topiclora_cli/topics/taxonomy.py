"""Topics and the tasks tagged with them: the raw material of the topic graph.

A taxonomy is a list of topics, each a short name, best with a one-line description, and optionally a table of tasks,
each tagged with some of the topics. Two topics that keep turning up on the same tasks are related; that is where the
graph's edges come from; without tasks, from descriptions reading alike.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from topiclora_cli.errors import TopicLoraError, nearest
from topiclora_cli.topics.taxonomy_file import FIELDS, KEYS, PACKAGED, read

# A packaged taxonomy's topics of fewer tasks say too little.
LEAST_TASKS = 3


@dataclass(frozen=True)
class Topic:
    """One node of the topic graph; `group` is a coarse heading for plots and for the hand-made control."""

    name: str
    description: str = ""
    group: str = ""


@dataclass(frozen=True)
class Taxonomy:
    """Topics, in a fixed order, for each task the names of its topics, and example prompts of topics that have any.

    stands_for: tag -> topic, of tags that are no topics themselves, such as the members of a group.
    """

    topics: tuple[Topic, ...]
    tasks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    examples: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    stands_for: Mapping[str, str] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Topic names, in node order."""
        return tuple(topic.name for topic in self.topics)

    @property
    def texts(self) -> list[str]:
        """What the text encoder reads for each topic: its name, then its description if it has one."""
        return [f"{topic.name}: {topic.description}" if topic.description else topic.name for topic in self.topics]

    @property
    def tags(self) -> tuple[str, ...]:
        """What a prompt may be tagged with: topics, and what stands for one."""
        return tuple(dict.fromkeys((*self.names, *self.stands_for)))

    def topics_of(self, tags: Sequence[str]) -> tuple[str, ...]:
        """The topics that a prompt's tags stand for, each once."""
        return tuple(dict.fromkeys(self.stands_for.get(tag, tag) for tag in tags))

    @property
    def task_texts(self) -> list[str]:
        """What the text encoder reads for each task: its name, with spaces."""
        return [task.replace("_", " ") for task in self.tasks]


def load_taxonomy(
    source: str | Path = "bigbench", min_tasks: int | None = None, *, exclude_tasks: Collection[str] = ()
) -> Taxonomy:
    """Read a packaged taxonomy, `bigbench` or `mmlu`, or a user's YAML, JSONL or CSV file.

    Where tasks are tagged, topics with fewer than `min_tasks` of them are dropped: unset, 3 of a packaged taxonomy, and
    none of a file, whose topics were listed on purpose. `exclude_tasks` are task names, or
    names of the file's `task_sets` (BIG-bench has `bbh`), left out before counting: a task the model is scored on
    should not shape the graph.
    Raises TopicLoraError for unreadable files, unknown fields, missing names, names that differ at most by case or
    spaces, and fewer than two topics left.
    """
    label, content = read(source)
    topics, tasks, examples = _parse(content, label)
    tasks = _without_tasks(tasks, exclude_tasks, content.get("task_sets") or {}, label)

    # Keywords such as "zero-shot" say how a question is put, not what it is about: an expert for them has no meaning.
    formats = set(content.get("format") or ())
    counts = Counter(name for names in tasks.values() for name in names)
    least = min_tasks if min_tasks is not None else LEAST_TASKS if str(source) in PACKAGED else 0
    kept = tuple(t for t in topics if t.name not in formats and (not tasks or counts[t.name] >= least))
    if len(kept) < 2:
        raise TopicLoraError(
            f"{label}: {len(kept)} of {len(topics)} topics left after dropping those of fewer than {least} tasks.",
            "Routing needs at least two topics: add topics or tags, or lower graph.min_tasks.",
        )
    names = {topic.name for topic in kept}
    tagged = {task: tuple(name for name in tags if name in names) for task, tags in tasks.items()}
    return Taxonomy(
        kept,
        {task: tags for task, tags in tagged.items() if tags},
        {name: prompts for name, prompts in examples.items() if name in names},
    )


def _parse(content: dict[str, Any], label: str) -> tuple[list[Topic], dict[str, list[str]], dict[str, tuple[str, ...]]]:
    """Check the entries and gather topics, the tags given from either side, task -> topics, and topic -> examples."""
    for key in content:
        if key not in KEYS:
            raise TopicLoraError(f"{label}: unknown key '{key}'.", nearest(str(key), KEYS))
    entries = content.get("topics")
    if not isinstance(entries, list) or not entries:
        raise TopicLoraError(f"{label}: the list 'topics' is empty or missing.", "List at least two topics.")
    for key, example in {"tasks": "task: [topic, topic]", "task_sets": "name: [task, task]"}.items():
        if not isinstance(content.get(key) or {}, dict):
            raise TopicLoraError(f"{label}: '{key}' must map each name to a list.", f"Write '{example}'.")
    topics: list[Topic] = []
    tasks = {str(task): _list(tags, f"{label}: task '{task}'") for task, tags in (content.get("tasks") or {}).items()}
    examples: dict[str, tuple[str, ...]] = {}
    for number, entry in enumerate(entries, start=1):
        topic, members, prompts = _entry(entry, f"{label}: topic {number}")
        topics.append(topic)
        for task in members:
            tasks.setdefault(task, []).append(topic.name)
        if prompts:
            examples[topic.name] = prompts

    _check_names(topics, label)
    known = {topic.name for topic in topics} | set(_list(content.get("format"), f"{label}: 'format'"))
    for task, tags in tasks.items():
        unknown = sorted(set(tags) - known)
        if unknown:
            raise TopicLoraError(
                f"{label}: task '{task}' has the unknown topic '{unknown[0]}'.",
                f"List it in 'topics'. {nearest(unknown[0], known)}",
            )
    return topics, {task: list(dict.fromkeys(tags)) for task, tags in tasks.items()}, examples


def _entry(entry: Any, where: str) -> tuple[Topic, list[str], tuple[str, ...]]:
    """One topic with its tasks and its example prompts."""
    if not isinstance(entry, dict):
        raise TopicLoraError(f"{where} is {entry!r}, not an entry with fields.", "Write 'topic: name'.")
    for key in entry:
        if key not in FIELDS:
            raise TopicLoraError(f"{where} has an unknown field '{key}'.", nearest(str(key), FIELDS))
    texts: dict[str, str] = {}
    for key in ("topic", "description", "group"):
        value = entry.get(key)
        if isinstance(value, dict | list):
            raise TopicLoraError(f"{where}: '{key}' is not a text.", "Give one line of text.")
        texts[key] = "" if value is None else str(value).strip()
    if not texts["topic"]:
        raise TopicLoraError(f"{where} has no 'topic'.", "Each needs a name.")
    prompts = _list(entry.get("examples"), f"{where}: 'examples'")
    return (
        Topic(texts["topic"], texts["description"], texts["group"]),
        _list(entry.get("tasks"), f"{where}: 'tasks'"),
        tuple(prompts),
    )


def _list(value: Any, where: str) -> list[str]:
    """A list of texts, none empty; nothing at all is an empty list."""
    texts = [] if value is None else value
    plain = isinstance(texts, list) and all(isinstance(text, str | int | float) for text in texts)
    if not plain or not all(str(text).strip() for text in texts):
        raise TopicLoraError(f"{where} is not a list of texts, none of them empty.", "Write '[one, another]'.")
    return [str(text).strip() for text in texts]


def _check_names(topics: list[Topic], label: str) -> None:
    """Names that look alike would be two nodes for one topic, and tags would reach only one of them."""
    first: dict[str, str] = {}
    for topic in topics:
        key = " ".join(topic.name.split()).casefold()
        if key in first:
            problem = (
                f"topic '{topic.name}' is listed more than once"
                if first[key] == topic.name
                else f"the topics '{first[key]}' and '{topic.name}' differ only by case or spaces"
            )
            raise TopicLoraError(f"{label}: {problem}.", "Give each topic its own name.")
        first[key] = topic.name


def _without_tasks(
    tasks: dict[str, list[str]], exclude: Collection[str], task_sets: Mapping[str, list[str]], label: str
) -> dict[str, list[str]]:
    names = [exclude] if isinstance(exclude, str) else exclude
    banned: set[str] = set()
    for name in names:
        if name not in tasks and name not in task_sets:
            raise TopicLoraError(
                f"{label}: no task or task set is called '{name}' (exclude_tasks).", nearest(name, (*tasks, *task_sets))
            )
        banned |= set(task_sets.get(name, ())) | {name}
    return {task: tags for task, tags in tasks.items() if task not in banned}
