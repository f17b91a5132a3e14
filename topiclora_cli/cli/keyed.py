"""Options in a table in the place of parameters: each stands for a key of the recipe, as --set does."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Annotated, Any

import typer

from topiclora_cli.cli.options import assignment


def as_typed(value: Any) -> Any:
    """The value of an option as the key's."""
    return value


@dataclass(frozen=True)
class KeyOption:
    """An option for the dotted `key`: its spellings, what it takes, its help, and the panel of --help it stands in.

    read: makes the key's value of what was typed. clears: a key that the option takes the place of.
    """

    key: str
    spellings: tuple[str, ...]
    kind: Any
    help: str
    panel: str
    metavar: str | None = None
    read: Callable[[Any], Any] = as_typed
    clears: str | None = None

    @property
    def parameter(self) -> inspect.Parameter:
        """The parameter of a command that typer makes the option of."""
        option = typer.Option(*self.spellings, help=self.help, rich_help_panel=self.panel, metavar=self.metavar)
        return inspect.Parameter(
            self._name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[self.kind | None, option]
        )

    def changes(self, given: dict[str, Any]) -> list[str]:
        """Take the option's value out of a command's parameters, as overrides of the recipe."""
        value = given.pop(self._name)
        return [] if value is None else [assignment(self.key, self.read(value))]

    @property
    def _name(self) -> str:
        return self.key.replace(".", "_")


def with_keys(options: Sequence[KeyOption]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A command with these options, too, whose parameter `changes` gets what they, and --set, override.

    A key that is not given and that a given option clears is set to null.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        own = [parameter for parameter in signature.parameters.values() if parameter.name != "changes"]
        ends = next((place for place, each in enumerate(own) if each.name == "overrides"), len(own))

        @wraps(command)
        def call(**given: Any) -> None:
            changes = list(given.pop("overrides") or ())
            found = {option: option.changes(given) for option in options}
            keys = {option.key for option, change in found.items() if change}
            cleared = {o.clears for o, change in found.items() if change and o.clears} - keys
            changes += [assignment(key, None) for key in sorted(cleared)]
            command(**given, changes=[*changes, *(each for change in found.values() for each in change)])

        parameters = [*own[:ends], *(option.parameter for option in options), *own[ends:]]
        every = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in parameters]
        call.__signature__ = signature.replace(parameters=every)  # type: ignore[attr-defined]
        call.__annotations__ = {each.name: each.annotation for each in every}
        return call

    return decorate
