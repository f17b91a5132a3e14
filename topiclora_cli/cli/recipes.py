"""`topiclora recipes`: list, show and copy the bundled recipes, and say to an editor what one may hold."""

import json
import shutil
from pathlib import Path
from typing import Annotated

import typer
from rich.syntax import Syntax

from topiclora_cli.cli import complete
from topiclora_cli.cli.console import console
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.runs.commands import command_line

app = typer.Typer(invoke_without_command=True)

Name = Annotated[str, typer.Argument(autocompletion=complete.recipes)]


@app.callback()
def bare(context: typer.Context) -> None:
    """List, show and copy the bundled recipes; alone, list them."""
    if context.invoked_subcommand is None:
        list_()


@app.command("list")
def list_() -> None:
    """What every bundled recipe trains, on what, what it needs, and its command."""
    from topiclora_cli.recipe import bundled_recipes
    from topiclora_cli.reporting.recipes import recipe_entry

    for name in bundled_recipes():
        console.print(recipe_entry(name, console.width), soft_wrap=True)


@app.command()
def keys(
    prefix: Annotated[str, typer.Argument(help="Only these, such as train or loss.kl; or a part of a name.")] = "",
) -> None:
    """Say of every key of a recipe what it means, what it takes, and what it is where nobody says."""
    from topiclora_cli.recipe.keys import recipe_keys
    from topiclora_cli.reporting.recipes import key_entry

    for key in recipe_keys(prefix):
        console.print(key_entry(key, console.width))


@app.command()
def show(name: Name) -> None:
    """Print a recipe."""
    from topiclora_cli.recipe import find_recipe

    text = find_recipe(name).read_text(encoding="utf-8")
    console.print(Syntax(text, "yaml", background_color="default") if console.is_terminal else text, soft_wrap=True)


@app.command()
def copy(
    name: Name, to: Annotated[Path | None, typer.Argument(help="Where to (default: NAME.yaml in this folder).")] = None
) -> None:
    """Copy a recipe so that you can change it."""
    from topiclora_cli.recipe import find_recipe

    source = find_recipe(name)
    target = to or Path(source.name)
    if target.exists():
        raise TopicLoraError(f"{target} exists already.", "Name another target.")
    shutil.copyfile(source, target)
    console.print(f"Copied to {target}. Run it with: {command_line('train', '--recipe', target)}", soft_wrap=True)


@app.command()
def schema() -> None:
    """Print the JSON schema of a recipe, from which an editor completes keys and checks values.

    Keep it in a file, and name that in the first line of a recipe: # yaml-language-server: $schema=FILE
    """
    from topiclora_cli.recipe.json_schema import recipe_schema

    typer.echo(json.dumps(recipe_schema(), indent=2, ensure_ascii=False))
