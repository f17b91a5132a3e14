"""Training examples as text that shows which of it is learnt: in colour, or between marks where there is none."""

from rich.table import Table
from rich.text import Text

from topiclora_cli.reporting.formats import percent
from topiclora_cli.runs.results.preview import ExampleView

OPENING, CLOSING = "⟦", "⟧"
TOPICS, EXPERTS = 4, 4


def legend(*, coloured: bool) -> Text:
    """What the marks mean."""
    learnt = Text("green", style="bold green") if coloured else Text(f"{OPENING}marked{CLOSING}")
    return Text.assemble("The loss is taken over what is ", learnt, "; the rest is read only.")


def example_text(example: ExampleView, number: int, *, coloured: bool) -> Text:
    """An example with a line above on what it is, and below on how much of it is learnt and what it is about."""
    topics = f"  topics: {', '.join(example.topics)}" if example.topics else ""
    text = Text.assemble((f"{number}. {example.source}{topics}\n", "bold"))
    for passage in example.passages:
        if passage.weight == 0:
            text.append(passage.text, style="dim" if coloured else "")
        elif coloured:
            text.append(passage.text, style="bold green")
        else:
            text.append(f"{OPENING}{passage.text}{CLOSING}")
    return text.append("\n").append("\n".join(_notes(example)), style="italic")


def tokens_table(example: ExampleView, *, coloured: bool) -> Table:
    """An example's tokens, one a row, with their weights in the loss."""
    table = Table("place", "id", "token", "loss weight", box=None)
    for column in (0, 1, 3):
        table.columns[column].justify = "right"
    for place, token in enumerate(example.tokens):
        style = ("bold green" if token.weight else "dim") if coloured else ""
        table.add_row(str(place), str(token.id), repr(token.text), f"{token.weight:g}", style=style)
    return table


def _notes(example: ExampleView) -> list[str]:
    learnt = [token.weight for token in example.tokens if token.weight]
    weights = sorted(set(learnt) - {1.0})
    weighed = f", at weight {', '.join(f'{weight:g}' for weight in weights)}" if weights else ""
    notes = [f"({len(example.tokens):,} tokens, {example.prompt_length:,} of prompt; loss on {len(learnt):,}{weighed})"]
    if example.too_long:
        notes.append("(longer than data.max_length: left out)")
    if example.about is not None:
        near = ", ".join(f"{each.topic} {each.relevance:.2f}" for each in example.about.topics[:TOPICS])
        ranked = sorted(enumerate(example.about.prior), key=lambda pair: -pair[1])[:EXPERTS]
        prior = ", ".join(f"expert {expert} {percent(share)} %" for expert, share in ranked)
        notes.append(f"(about: {near})")
        notes.append(f"(prior: {prior}; confidence {example.about.confidence:.2f})")
    return notes
