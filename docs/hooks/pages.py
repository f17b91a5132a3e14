"""Pages that nobody writes: made at every build from what they describe, so that none goes stale."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from bundled_recipes import recipes_page
from method_sources import methods_page
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from nbconvert import MarkdownExporter
from recipe_keys import recipe_page

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / ".github"
NOTEBOOK = ROOT / "examples" / "python.ipynb"


def cli_page() -> str:
    """The command line as typer itself documents it."""
    command = [sys.executable, "-m", "typer", "topiclora_cli.cli.app", "utils", "docs", "--name", "topiclora"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.replace("# `topiclora`", "# Command line", 1)


def changelog_page() -> str:
    """The changelog, as it stands beside the code."""
    return (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


PAGES: dict[str, Callable[[], str]] = {
    "reference/recipe.md": recipe_page,
    "reference/cli.md": cli_page,
    "reference/recipes.md": recipes_page,
    "reference/methods.md": methods_page,
    "changelog.md": changelog_page,
}


def notebook_page() -> tuple[str, dict[str, bytes]]:
    """The notebook with the outputs that it was saved with, and its pictures by their places."""
    body, resources = MarkdownExporter().from_filename(
        str(NOTEBOOK), resources={"unique_key": "notebook", "output_files_dir": "pictures"}
    )
    return body, resources["outputs"]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the made pages, and the pictures that README shows, too."""
    for uri, make in PAGES.items():
        files.append(File.generated(config, uri, content=make()))
    body, drawn = notebook_page()
    for uri, content in {"notebook.md": body, **drawn}.items():
        files.append(File.generated(config, uri, content=content))
    for picture in PICTURES.glob("*.png"):
        files.append(File.generated(config, f"pictures/{picture.name}", abs_src_path=str(picture)))
    return files
