"""What somebody asks in their own words, in the template that the training prompts were made by."""

from jinja2 import Environment, nodes

from topiclora_cli.data.missing import Names
from topiclora_cli.data.templates import ROW, template
from topiclora_cli.recipe.data import SourceSection


def fill_in_message(source: SourceSection, text: str) -> str:
    """A message in the one place that a source's prompt template has for a column; as it is where there are others."""
    if source.prompt is None:
        return text
    names = list(Environment().parse(source.prompt).find_all(nodes.Name))
    places = {name.name for name in names if name.ctx == "load"} - {name.name for name in names if name.ctx == "store"}
    if len(places) != 1 or places == {ROW}:
        return text
    return template("data.prompt", source.prompt, Names())({next(iter(places)): text})
