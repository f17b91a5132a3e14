"""Options that a command takes together, as one value, so that it need not name each among its parameters."""

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Annotated, Any

import typer

Options = Mapping[str, tuple[Any, Any]]  # by parameter: the annotation that typer reads, and the default


def option(
    kind: Any, spelling: str | tuple[str, ...], help: str, panel: str, default: Any = None, **more: Any
) -> tuple[Any, Any]:
    """An entry of such a table: what typer reads of an option that stands in a panel of --help, and its default."""
    spellings = (spelling,) if isinstance(spelling, str) else spelling
    return Annotated[kind, typer.Option(*spellings, help=help, rich_help_panel=panel, **more)], default


def gathered(parameter: str, options: Options, make: Callable[..., Any]) -> Callable[..., Callable[..., None]]:
    """A command with these options, too, of which its `parameter` gets what `make` makes, in the order of --help."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        own = [each for each in signature.parameters.values() if each.name != parameter]
        ends = next((place for place, each in enumerate(own) if each.name == "overrides"), len(own))

        @wraps(command)
        def call(**given: Any) -> None:
            values = {name: given.pop(name) for name in options}
            command(**given, **{parameter: make(**values)})

        new = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
            for name, (annotation, default) in options.items()
        ]
        every = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in (*own[:ends], *new, *own[ends:])]
        call.__signature__ = signature.replace(parameters=every)  # type: ignore[attr-defined]
        call.__annotations__ = {each.name: each.annotation for each in every}
        return call

    return decorate
