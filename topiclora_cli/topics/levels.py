"""Topics at a coarser grain: a taxonomy's groups as its topics."""

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.topics.taxonomy import Taxonomy, Topic


def at_groups(taxonomy: Taxonomy) -> Taxonomy:
    """The taxonomy whose topics are its groups, each described by its members; tasks, examples and tags follow.

    Raises TopicLoraError for topics without a group, and for fewer than two groups.
    """
    lone = [topic.name for topic in taxonomy.topics if not topic.group]
    groups: dict[str, list[str]] = {}
    for topic in taxonomy.topics:
        groups.setdefault(topic.group, []).append(topic.name)
    if lone or len(groups) < 2:
        found = f"{len(lone)} of {len(taxonomy.topics)} topics have none, such as '{lone[0]}'" if lone else ""
        raise TopicLoraError(
            f"graph.level: groups makes topics of the taxonomy's groups, and {found or 'there is one'}.",
            "Give every topic a group, two or more in all, or set graph.level to topics.",
        )
    group_of = {name: group for group, names in groups.items() for name in names}
    examples = {
        group: tuple(prompt for name in names for prompt in taxonomy.examples.get(name, ()))
        for group, names in groups.items()
    }
    return Taxonomy(
        tuple(Topic(group, ", ".join(names), group) for group, names in groups.items()),
        {task: tuple(dict.fromkeys(group_of[tag] for tag in tags)) for task, tags in taxonomy.tasks.items()},
        {group: prompts for group, prompts in examples.items() if prompts},
        group_of,
    )
