"""The options of `topiclora eval` for what follows it: a study of the routing, and probes of the prompts."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from topiclora_cli.cli import complete
from topiclora_cli.cli.console import TerminalProgress, console
from topiclora_cli.cli.gathered import gathered
from topiclora_cli.cli.options import listed
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.evaluation.probes import PROBES

if TYPE_CHECKING:
    from topiclora_cli.recipe import Recipe
    from topiclora_cli.recipe.evaluation import EvalSection
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
            int | None,
            typer.Option(
                "--study-questions",
                min=1,
                rich_help_panel=PANEL,
                help="Questions of each task for these studies (default: eval.probe_questions).",
            ),
        ],
        None,
    ),
}


@dataclass(frozen=True)
class StudyOptions:
    """What was asked for on the command line."""

    routing: bool
    probes: tuple[str, ...]
    against: Path | None
    questions: int | None

    def filled_in(self, section: "EvalSection") -> "StudyOptions":
        """What the recipe asks for where the command line does not say."""
        probes = self.probes or tuple(section.probes)
        return replace(self, probes=probes, questions=self.questions or section.probe_questions)

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
        from topiclora_cli.stages.studies import QUESTIONS, Wanted

        return Wanted(self.routing, self.probes, self.against, self.questions or QUESTIONS)


def _as_typed(routing: bool, probes: list[str] | None, against: Path | None, questions: int | None) -> StudyOptions:
    names = tuple(name for text in probes or () for name in listed(text))
    if probes and not names:
        raise TopicLoraError("--probe names no probe.", f"There are {', '.join(PROBES)}.")
    return StudyOptions(routing, names, against, questions)


with_studies = gathered("studies", _OPTIONS, _as_typed)
