"""A picture of one training run: losses above, routing below, alarms where they were raised."""

from collections.abc import Sequence
from pathlib import Path

from topiclora_cli.reporting.figures import new_figure, save_png
from topiclora_cli.runs.results.metrics import LoggedStep

_PANELS = {
    "loss": ("loss", "loss_lm", "eval_loss"),
    "KL": ("loss_kl", "eval_kl"),
    "experts": ("effective_experts", "dead_experts"),
    "share": ("routing_entropy", "largest_load"),
}


def plot_curves(rows: Sequence[LoggedStep], path: str | Path, *, title: str) -> Path:
    """Draw the rows of a metrics.jsonl by step as one PNG; what a run did not log has no panel."""
    panels = {label: [n for n in names if any(n in row.values for row in rows)] for label, names in _PANELS.items()}
    panels = {label: names for label, names in panels.items() if names}
    figure = new_figure(7, 1 + 1.9 * len(panels))
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (label, names) in zip(axes, panels.items(), strict=True):
        for name in names:
            points = [(row.step, row.values[name]) for row in rows if name in row.values]
            # Few points, as validations are, would vanish as a line.
            marker = "o" if len(points) < len(rows) / 2 else None
            axis.plot(*zip(*points, strict=True), marker=marker, markersize=3, linewidth=1, label=name)
        for row in rows:
            if row.alarms:
                axis.axvline(row.step, color="red", linestyle=":", linewidth=1)
        axis.set_ylabel(label)
        axis.legend(fontsize=7, frameon=False)
        axis.grid(alpha=0.3)
    axes[-1].set_xlabel("step")
    axes[0].set_title(title, fontsize=10)
    return save_png(figure, path)
