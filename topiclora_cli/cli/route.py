"""`topiclora route`: one prompt's topics, its prior over experts, and the routers' gates layer by layer."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from topiclora_cli.cli.console import TerminalProgress, console, errors
from topiclora_cli.cli.options import RunOption, open_run
from topiclora_cli.errors import TopicLoraError

if TYPE_CHECKING:
    from topiclora_cli.runs.results.route import PromptRoute


def route(
    prompt: Annotated[str, typer.Argument(help="The text to route.")],
    run: RunOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
    png: Annotated[Path | None, typer.Option("--png", help="Draw the gates into this file, too.")] = None,
) -> None:
    """Show what a prompt is about and which experts it meets: by the topic graph, and in the trained layers."""
    settings, directory = open_run(run, None)
    from topiclora_cli.reporting.terminal import experts_table, gate_tables, topics_table
    from topiclora_cli.stages.route import route_prompt

    result = route_prompt(settings, directory, prompt, TerminalProgress(errors if as_json else console))
    if png is not None:
        _draw(result, png)
    if as_json:
        typer.echo(json.dumps(_plain(result), ensure_ascii=False))
        return
    if result.topics is not None:
        console.print(topics_table(result.topics))
    console.print(experts_table(result))
    if result.gates is not None:
        for table in gate_tables(result.gates, width=console.width):
            console.print(table)
    if png is not None:
        console.print(f"Picture: {png}", soft_wrap=True)


def _plain(result: "PromptRoute") -> dict[str, Any]:
    """The result under fixed keys, null where the run has no graph or no routers."""
    topics, gates = result.topics, result.gates
    return {
        "prompt": result.prompt,
        "topics": [asdict(score) for score in topics.topics] if topics else None,
        "prior": topics.prior if topics else None,
        "confidence": topics.confidence if topics else None,
        "experts": topics.experts if topics else None,
        "tokens": gates.tokens if gates else None,
        "mean_gates": gates.mean if gates else None,
        "gates": [asdict(layer) for layer in gates.layers] if gates else None,
    }


def _draw(result: "PromptRoute", path: Path) -> None:
    if result.gates is None:
        raise TopicLoraError("The run has no routers whose gates could be drawn.", "Leave out --png.")
    from topiclora_cli.reporting.heatmap import plot_gates

    above = {"prior": result.topics.prior} if result.topics else {}
    layers = {"-" if row.layer is None else str(row.layer): row.mean for row in result.gates.layers}
    title = f"Gates in %, mean over {result.gates.tokens} prompt tokens"
    try:
        plot_gates(layers, path, above={**above, "mean": result.gates.mean}, title=title)
    except OSError as error:
        raise TopicLoraError(f"{path} cannot be written: {error.strerror}.", "Name another file.") from None
