"""The options of `topiclora train` for a topic that comes to a trained run, or goes."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from topiclora_cli.cli.console import TerminalProgress, console
from topiclora_cli.cli.options import open_run
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.runs.commands import command_line

PANEL = "Topics of a trained run"
_OPTIONS: dict[str, Any] = {
    "add_topic": Annotated[
        str | None,
        typer.Option(
            "--add-topic",
            rich_help_panel=PANEL,
            metavar="NAME",
            help="Make a run beside --run with this topic more: an expert of its own, all others as they are.",
        ),
    ],
    "data": Annotated[
        str | None,
        typer.Option(
            "--data",
            rich_help_panel=PANEL,
            metavar="FILE",
            help="Its examples; --set data.prompt=... says how to read.",
        ),
    ],
    "description": Annotated[
        str | None, typer.Option("--description", rich_help_panel=PANEL, metavar="TEXT", help="What it is about.")
    ],
    "drop_topic": Annotated[
        str | None,
        typer.Option(
            "--drop-topic",
            rich_help_panel=PANEL,
            metavar="NAME",
            help="Make a run beside --run without this topic, and without its expert where no other shares that.",
        ),
    ],
}
_ADD = "Example: topiclora train --run runs/mine --add-topic geography --data geography.jsonl"
_DROP = "Example: topiclora train --run runs/mine --drop-topic geography"


@dataclass(frozen=True)
class GrowthOptions:
    """What was asked for on the command line."""

    add_topic: str | None
    data: str | None
    description: str | None
    drop_topic: str | None

    def check(self, others: dict[str, Any]) -> bool:
        """Whether a topic is to come or go; raises TopicLoraError for what does not go together with that.

        others: the options of a training that were given, by their names.
        """
        if self.add_topic is None and self.drop_topic is None:
            for option, value in (("--data", self.data), ("--description", self.description)):
                if value is not None:
                    raise TopicLoraError(f"{option} belongs to --add-topic.", _ADD)
            return False
        asked = "--drop-topic" if self.add_topic is None else "--add-topic"
        if self.add_topic is not None and self.drop_topic is not None:
            raise TopicLoraError(
                "--add-topic and --drop-topic are two steps.", "Drop from the run that the first made."
            )
        if self.add_topic is not None and self.data is None:
            raise TopicLoraError("--add-topic needs examples of the topic.", _ADD)
        if self.drop_topic is not None and (self.data or self.description or others.get("--set")):
            option = "--data" if self.data else "--description" if self.description else "--set"
            raise TopicLoraError(f"--drop-topic trains nothing, and {option} is about training.", _DROP)
        for option, value in others.items():
            if value and option != "--set":
                raise TopicLoraError(f"{asked} starts from a trained run, without {option}.", "Name it with --run.")
        return True

    def run(self, run: Path | None, out: Path | None, overrides: list[str] | None) -> None:
        """Have the topic come or go, and say what came of it."""
        recipe, directory = open_run(run, None)
        if self.drop_topic is not None:
            from topiclora_cli.stages.drop_topic import drop_topic

            made = drop_topic(recipe, directory, TerminalProgress(), topic=self.drop_topic, out=out).run
        else:
            from topiclora_cli.recipe import parse_override
            from topiclora_cli.reporting.drawn import as_rich
            from topiclora_cli.reporting.growth import added_table
            from topiclora_cli.reporting.terminal import train_table
            from topiclora_cli.stages.add_topic import add_topic
            from topiclora_cli.topics.taxonomy import Topic

            topic = Topic((self.add_topic or "").strip(), (self.description or "").strip())
            added = add_topic(
                recipe,
                directory,
                TerminalProgress(),
                topic=topic,
                data=self.data or "",
                overrides=[parse_override(text) for text in overrides or []],
                out=out,
            )
            console.print(train_table(added.training))
            console.print(as_rich(added_table(added.facts)))
            made = added.run
        console.print(f"Run:  {made.path}\nNext: {command_line('eval', '--run', made.path)}", soft_wrap=True)


def with_growth(command: Callable[..., None]) -> Callable[..., None]:
    """A command with these options, too, whose parameter `growth` gets what they say."""
    signature = inspect.signature(command, eval_str=True)
    own = [parameter for parameter in signature.parameters.values() if parameter.name != "growth"]

    @wraps(command)
    def call(**given: Any) -> None:
        growth = GrowthOptions(**{name: given.pop(name) for name in _OPTIONS})
        command(**given, growth=growth)

    keyword = inspect.Parameter.KEYWORD_ONLY
    new = [inspect.Parameter(name, keyword, default=None, annotation=each) for name, each in _OPTIONS.items()]
    every = [*(each.replace(kind=keyword) for each in own), *new]
    call.__signature__ = signature.replace(parameters=every)  # type: ignore[attr-defined]
    call.__annotations__ = {each.name: each.annotation for each in every}
    return call
