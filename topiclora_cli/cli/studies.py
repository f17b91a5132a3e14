"""The options of `topiclora eval` for what follows it: a study of the routing, and probes of the prompts."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from topiclora_cli.cli import complete
from topiclora_cli.cli.console import TerminalProgress, console
from topiclora_cli.cli.options import listed
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.evaluation.probes import PROBES

if TYPE_CHECKING:
    from topiclora_cli.recipe import Recipe
    from topiclora_cli.runs.run import RunDir

PANEL = "What the routers did"
_OPTIONS: dict[str, tuple[Any, Any]] = {
    "routing": (
        Annotated[
            bool,
            typer.Option(
                "--routing",
                rich_help_panel=PANEL,
                help="Measure routing by layer and topic, and scores with experts off or with gates that are uniform, "
                "shuffled, or the prior's.",
            ),
        ],
        False,
    ),
    "probes": (
        Annotated[
            list[str] | None,
            typer.Option(
                "--probe",
                rich_help_panel=PANEL,
                metavar="NAME",
                help=f"Ask again with changed prompts: {', '.join(PROBES)}. May be repeated, or several with commas.",
            ),
        ],
        None,
    ),
    "against": (
        Annotated[
            Path | None,
            typer.Option(
                "--against",
                rich_help_panel=PANEL,
                autocompletion=complete.runs,
                help="A run, say of plain LoRA, whose adapter gets the same probes.",
            ),
        ],
        None,
    ),
    "questions": (
        Annotated[
            int,
            typer.Option(
                "--study-questions", min=1, rich_help_panel=PANEL, help="Questions of each task for these studies."
            ),
        ],
        10,
    ),
}


@dataclass(frozen=True)
class StudyOptions:
    """What was asked for on the command line."""

    routing: bool
    probes: tuple[str, ...]
    against: Path | None
    questions: int

    @property
    def asked(self) -> bool:
        """Whether there is anything to study."""
        return self.routing or bool(self.probes)

    def check(self) -> None:
        """Refuse what cannot be studied before hours go into an evaluation."""
        if self.routing or self.probes or self.against:
            self._wanted().check()

    def run(self, settings: "Recipe", directory: "RunDir", name: str) -> None:
        """Study what was asked for on the tasks of the evaluation `name`, and print the tables of it."""
        if not self.asked:
            return
        from topiclora_cli.reporting.drawn import as_rich
        from topiclora_cli.reporting.probed import probes_table
        from topiclora_cli.reporting.routed import study_tables
        from topiclora_cli.stages.studies import study

        found = study(settings, directory, TerminalProgress(), self._wanted(), name=name)
        tables = study_tables(found.routing) if found.routing else []
        tables += [probes_table(found.probes)] if found.probes else []
        for table in tables:
            console.print(as_rich(table))
        for said in (found.routing, found.probes):
            for text in said.left_out if said else ():
                console.print(text)

    def _wanted(self) -> Any:
        from topiclora_cli.stages.studies import Wanted

        return Wanted(self.routing, self.probes, self.against, self.questions)


def with_studies(command: Callable[..., None]) -> Callable[..., None]:
    """A command with these options, too, whose parameter `studies` gets what they say."""
    signature = inspect.signature(command, eval_str=True)
    own = [parameter for parameter in signature.parameters.values() if parameter.name != "studies"]
    ends = next((place for place, each in enumerate(own) if each.name == "overrides"), len(own))

    @wraps(command)
    def call(**given: Any) -> None:
        routing, probes, against, questions = (given.pop(name) for name in _OPTIONS)
        names = tuple(name for text in probes or () for name in listed(text))
        if probes and not names:
            raise TopicLoraError("--probe names no probe.", f"There are {', '.join(PROBES)}.")
        command(**given, studies=StudyOptions(routing, names, against, questions))

    new = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in _OPTIONS.items()
    ]
    every = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in (*own[:ends], *new, *own[ends:])]
    call.__signature__ = signature.replace(parameters=every)  # type: ignore[attr-defined]
    call.__annotations__ = {each.name: each.annotation for each in every}
    return call
