"""The bundled recipes, each with what its head says and its text."""

from topiclora_cli.recipe import bundled_recipes

INTRODUCTION = """# Bundled recipes

`topiclora recipes` lists them, `topiclora recipes copy NAME mine.yaml` makes one your own. The head of each says what
it needs, what has been run of it, and where its settings come from.
"""


def recipes_page() -> str:
    """The page: a section for each recipe."""
    parts = [INTRODUCTION]
    for name, path in bundled_recipes().items():
        parts += [f"## {name}\n", f"```yaml\n{path.read_text(encoding='utf-8').rstrip()}\n```\n"]
    return "\n".join(parts)
