"""Several sources as one list of examples."""

import random
from collections.abc import Sequence
from typing import Literal

from topiclora_cli.data.row import Row


def mix(
    groups: Sequence[list[Row]],
    weights: Sequence[float] | None,
    *,
    seed: int,
    stopping_strategy: Literal["first_exhausted", "all_exhausted"] = "first_exhausted",
) -> list[Row]:
    """One list of the examples of all groups, the same for the same seed.

    A single group keeps its order. Several without weights are shuffled together, every example once; with weights,
    each is shuffled by itself and datasets.interleave_datasets draws from them with these probabilities.
    """
    if len(groups) == 1:
        return groups[0]
    shuffled = [random.Random(f"{seed}/{number}").sample(group, len(group)) for number, group in enumerate(groups)]
    if weights is None:
        everything = [row for group in shuffled for row in group]
        return random.Random(f"mixture/{seed}").sample(everything, len(everything))
    import datasets  # which takes half a second

    places = [
        datasets.Dataset.from_dict({"group": [number] * len(group), "place": list(range(len(group)))})
        for number, group in enumerate(shuffled)
    ]
    total = sum(weights)
    drawn = datasets.interleave_datasets(
        places, [weight / total for weight in weights], seed=seed, stopping_strategy=stopping_strategy
    )
    return [shuffled[group][place] for group, place in zip(drawn["group"], drawn["place"], strict=True)]
