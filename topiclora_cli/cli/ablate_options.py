"""The options of `topiclora ablate`: what is compared, and how it is run."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from topiclora_cli.cli import complete
from topiclora_cli.cli.gathered import gathered
from topiclora_cli.cli.options import listed
from topiclora_cli.errors import TopicLoraError

if TYPE_CHECKING:
    from topiclora_cli.ablation.asking import Asked

COMPARED = "What is compared"


def _option(kind: Any, spelling: str, help: str, panel: str, default: Any = None, **more: Any) -> tuple[Any, Any]:
    return Annotated[kind, typer.Option(spelling, help=help, rich_help_panel=panel, **more)], default


_COMPARED = {
    "suites": _option(
        list[str] | None,
        "--suite",
        "A ready set of cells: components, topics, sequence, hyper, baselines, budget or scaling. May be repeated, or "
        "several with commas.",
        COMPARED,
        metavar="NAME",
        autocompletion=complete.suites,
    ),
    "quick": _option(bool, "--quick", "The suites at a size that a laptop has time for.", COMPARED, False),
    "grid": _option(
        list[str] | None,
        "--grid",
        "An axis: a recipe key and its values, such as adapter.r=4,8,16; or keys that are changed together, such as "
        "adapter.num_experts+adapter.r=2:32,4:16. May be repeated: cells are the product of all axes.",
        COMPARED,
        metavar="KEY=A,B,...",
    ),
    "one_factor": _option(
        bool, "--one-factor", "Take each axis alone around the recipe, in place of their product.", COMPARED, False
    ),
    "tune": _option(
        list[str] | None,
        "--tune",
        "Give every cell its own best of these values, by the loss on held-out examples. May be repeated.",
        COMPARED,
        metavar="KEY=A,B,...",
    ),
    "seeds": _option(str | None, "--seeds", "Comma-separated seeds (default: the recipe's).", COMPARED),
    "cells": _option(str | None, "--cells", "Comma-separated names of cells (default: all).", COMPARED),
    "reference": _option(
        str | None, "--reference", "The cell that others are compared with.", COMPARED, metavar="CELL"
    ),
}


@dataclass(frozen=True)
class GridOptions:
    """What was typed of the grid."""

    suites: list[str] | None
    quick: bool
    grid: list[str] | None
    one_factor: bool
    tune: list[str] | None
    seeds: str | None
    cells: str | None
    reference: str | None

    @property
    def only(self) -> list[str] | None:
        """Names of the cells that this call is to run; None for all."""
        return listed(self.cells) if self.cells else None

    @property
    def named_seeds(self) -> tuple[int, ...]:
        """The seeds; raises TopicLoraError for what is none."""
        texts = listed(self.seeds) if self.seeds is not None else []
        if self.seeds is not None and not texts:
            raise TopicLoraError("--seeds has none.", "Example: --seeds 0,1,2")
        if wrong := [text for text in texts if not text.isdecimal()]:
            raise TopicLoraError(f"--seeds: {wrong[0]!r} is no whole number from 0.", "Example: --seeds 0,1,2")
        seeds = tuple(map(int, texts))
        if len(set(seeds)) < len(seeds):
            raise TopicLoraError(f"--seeds {self.seeds} has one twice.", "Leave it out.")
        return seeds

    def asked(self) -> "Asked":
        """The grid that this asks for; raises TopicLoraError for what contradicts itself."""
        from topiclora_cli.ablation.asking import Asked
        from topiclora_cli.ablation.axes import parse_axes

        return Asked(
            suites=tuple(dict.fromkeys(name for text in self.suites or () for name in listed(text))),
            quick=self.quick,
            axes=parse_axes(self.grid or ()),
            one_factor=self.one_factor,
            tune=parse_axes(self.tune or (), option="--tune"),
            seeds=self.named_seeds,
            reference=self.reference,
        )

    @property
    def given(self) -> bool:
        """Whether anything of it was typed."""
        return self != GridOptions(None, False, None, False, None, None, None, None)


with_grid = gathered("grid", _COMPARED, GridOptions)
