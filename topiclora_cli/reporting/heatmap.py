"""A picture of one prompt's routing: gates by layer and expert, with the prior and the mean over layers above."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from topiclora_cli.reporting.figures import new_figure, save_png


def plot_gates(
    layers: Mapping[str, Sequence[float]], path: str | Path, *, above: Mapping[str, Sequence[float]], title: str
) -> Path:
    """Draw gates as one PNG: `above` and below it `layers`, each from a row's name to its values by expert (E,).

    Rows may differ in E; where a row has no such expert, its place stays grey.
    """
    experts = max(len(row) for row in (*above.values(), *layers.values()))
    heights = [len(above), len(layers)]
    figure = new_figure(max(5.0, 0.55 * experts + 2.5), 0.3 * sum(heights) + 2)
    top, bottom = figure.subplots(2, 1, height_ratios=heights)
    # One scale for both, else a faint prior would look like a strong one.
    largest = max(value for row in (*above.values(), *layers.values()) for value in row)
    for axes, rows in ((top, above), (bottom, layers)):
        padded = [[*row, *[math.nan] * (experts - len(row))] for row in rows.values()]
        axes.set_facecolor("0.9")
        image = axes.imshow(padded, aspect="auto", cmap="Blues", vmin=0, vmax=largest)
        axes.set_yticks(range(len(rows)), list(rows), fontsize=8)
        axes.set_xticks(range(experts))
        for y, row in enumerate(rows.values()):
            for x, value in enumerate(row):
                colour = "w" if value > 0.6 * largest else "k"
                axes.text(x, y, f"{100 * value:.0f}", ha="center", va="center", fontsize=7, color=colour)
    bottom.set_xlabel("expert")
    bottom.set_ylabel("layer")
    top.set_title(title, fontsize=10)
    figure.colorbar(image, ax=[top, bottom], shrink=0.9, label="share of the gates")
    return save_png(figure, path)
