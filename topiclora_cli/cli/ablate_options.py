"""The options of `topiclora ablate`: what is compared, and how it is run."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from topiclora_cli.cli import complete
from topiclora_cli.cli.gathered import gathered, option
from topiclora_cli.cli.options import listed
from topiclora_cli.errors import TopicLoraError

if TYPE_CHECKING:
    from topiclora_cli.ablation.asking import Asked

COMPARED = "What is compared"


_COMPARED = {
    "suites": option(
        list[str] | None,
        "--suite",
        "A ready set of cells: components, topics, sequence, hyper, baselines, budget or scaling. May be repeated, or "
        "several with commas.",
        COMPARED,
        metavar="NAME",
        autocompletion=complete.suites,
    ),
    "quick": option(bool, "--quick", "At a size that a laptop has time for, to see that it runs.", COMPARED, False),
    "grid": option(
        list[str] | None,
        "--grid",
        "An axis: a recipe key and its values, such as adapter.r=4,8,16; or keys that are changed together, such as "
        "adapter.num_experts+adapter.r=2:32,4:16. May be repeated: cells are the product of all axes.",
        COMPARED,
        metavar="KEY=A,B,...",
    ),
    "one_factor": option(
        bool, "--one-factor", "Take each axis alone around the recipe, in place of their product.", COMPARED, False
    ),
    "tune": option(
        list[str] | None,
        "--tune",
        "Give every cell its own best of these values, by the loss on held-out examples. May be repeated.",
        COMPARED,
        metavar="KEY=A,B,...",
    ),
    "seeds": option(str | None, "--seeds", "Comma-separated seeds (default: the recipe's).", COMPARED),
    "search": option(
        str | None,
        "--search",
        "How --tune goes about it: grid (all values), or optuna, which also takes ranges such as 1e-4..1e-2:log.",
        COMPARED,
        metavar="NAME",
    ),
    "trials": option(int | None, "--trials", "With --search optuna: how many values each cell tries.", COMPARED),
    "cells": option(str | None, "--cells", "Comma-separated names of cells (default: all).", COMPARED),
    "reference": option(str | None, "--reference", "The cell that others are compared with.", COMPARED, metavar="CELL"),
}


@dataclass(frozen=True)
class GridOptions:
    """What was typed of the grid."""

    suites: list[str] | None
    quick: bool
    grid: list[str] | None
    one_factor: bool
    tune: list[str] | None
    search: str | None
    trials: int | None
    seeds: str | None
    cells: str | None
    reference: str | None

    @property
    def only(self) -> list[str] | None:
        """Names of the cells that this call is to run, None for all; raises TopicLoraError where there is none."""
        if self.cells is None:
            return None
        if names := listed(self.cells):
            return names
        raise TopicLoraError("--cells names no cell.", "Example: --cells full,kl_off")

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

        suites = tuple(dict.fromkeys(name for text in self.suites or () for name in listed(text)))
        if self.suites and not suites:
            raise TopicLoraError("--suite names no suite.", "Example: --suite components")
        return Asked(
            suites=suites,
            quick=self.quick,
            axes=parse_axes(self.grid or ()),
            one_factor=self.one_factor,
            tune=parse_axes(self.tune or (), option="--tune"),
            search=self.search,
            trials=self.trials,
            seeds=self.named_seeds,
            reference=self.reference,
        )

    @property
    def given(self) -> bool:
        """Whether anything of it was typed."""
        return any(value not in (None, False) for value in vars(self).values())


with_grid = gathered("grid", _COMPARED, GridOptions)
