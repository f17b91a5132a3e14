"""A picture of one training run: a measure a plot, what was measured on held-out examples beside it, and alarms."""

from collections.abc import Sequence
from pathlib import Path

from topiclora_cli.reporting.chart import smoothed
from topiclora_cli.reporting.figures import new_figure, save_png
from topiclora_cli.runs.results.metrics import LoggedStep

# Of each plot: its name, the measure of every logged step, and that of validations.
_PLOTS = (
    ("loss", "loss", "eval_loss"),
    ("language-model loss", "loss_lm", None),
    ("KL to the topic prior, nats", "loss_kl", "eval_kl"),
    ("effective experts of a router", "effective_experts", None),
    ("idle experts", "dead_experts", None),
    ("largest load", "largest_load", None),
    ("routing entropy", "routing_entropy", None),
)


def plot_curves(rows: Sequence[LoggedStep], path: str | Path, *, title: str) -> Path:
    """Draw the rows of a metrics.jsonl by step as one PNG; what a run did not log has no plot.

    A line is the mean over the steps around, in front of the steps themselves.
    """
    plots = [each for each in _PLOTS if any(name in row.values for row in rows for name in each[1:] if name)]
    figure = new_figure(7, 1 + 1.6 * len(plots))
    axes = figure.subplots(len(plots), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (label, name, held_out) in zip(axes, plots, strict=True):
        if points := _points(rows, name):
            steps, values = zip(*points, strict=True)
            axis.plot(steps, values, color="C0", alpha=0.25, linewidth=0.8)
            axis.plot(steps, smoothed(values), color="C0", linewidth=1.6, label="training")
        if held_out and (points := _points(rows, held_out)):
            # Few points would vanish as a line.
            axis.plot(*zip(*points, strict=True), color="C1", marker="o", markersize=4, label="held-out examples")
            axis.legend(fontsize=8, frameon=False)
        for row in rows:
            if row.alarms:
                axis.axvline(row.step, color="C3", linestyle=":", linewidth=1)
        axis.set_title(label, fontsize=9, loc="left")
        axis.grid(alpha=0.3)
    axes[-1].set_xlabel("step" + ("; dotted: an alarm" if any(row.alarms for row in rows) else ""))
    figure.suptitle(title, fontsize=10)
    return save_png(figure, path)


def _points(rows: Sequence[LoggedStep], name: str) -> list[tuple[int, float]]:
    return [(row.step, row.values[name]) for row in rows if name in row.values]
