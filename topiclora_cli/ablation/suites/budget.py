"""How the result grows with the size of the adapter, and whether a mixture uses more of it than one LoRA does."""

from typing import Any

from topiclora_cli.ablation.suites.sizes import Sizes
from topiclora_cli.ablation.suites.suite import Made, SuiteCell
from topiclora_cli.adapters.counting import base_parameters
from topiclora_cli.recipe import Recipe, altered
from topiclora_cli.stages.counted import count

SHARES = (0.1, 0.3, 1.0, 3.0, 10.0)  # of the base's parameters, per cent
_QUICK = (0.3, 1.0, 3.0)


def make(recipe: Recipe, *, quick: bool) -> Made:
    """The recipe and one LoRA at shares of the base's parameters, on as many of the upper layers as a share has room
    for; raises TopicLoraError for a method that takes its size from trained adapters.
    """
    sizes = Sizes(recipe)
    layers = _layers(sizes)
    smallest = altered(recipe, [("adapter.budget", None), ("adapter.r", 1)], where="suite budget")
    of_one = count(smallest.adapter, sizes.skeleton).total / len(layers)
    base = base_parameters(sizes.skeleton.model)
    cells: list[SuiteCell] = []
    notes: list[str] = []
    for share in _QUICK if quick else SHARES:
        room = int(share / 100 * base / of_one)
        if room < 1:
            notes.append(f"{share:g} % of the base is less than one layer of experts of rank 1 takes; left out.")
            continue
        budget = {"adapter.budget": f"total={share:g}%"}
        placed: dict[str, Any] = {"adapter.layers_to_transform": layers[-room:]} if room < len(layers) else {}
        if placed:
            notes.append(f"{share:g} % has room for experts of rank 1 on the upper {room} of {len(layers)} layers.")
        own = {**budget, **placed}
        question = f"What does the recipe make of {share:g} % of the base's parameters?"
        cells.append(SuiteCell(f"full-budget={share:g}%", question, {**own, **sizes.slope(own)}))
        if recipe.adapter.method != "lora":
            plain = {**sizes.method("lora", budget["adapter.budget"]), **placed}
            question = f"What does one LoRA make of {share:g} % of the base's parameters, in the same layers?"
            cells.append(SuiteCell(f"lora-budget={share:g}%", question, plain))
    return Made(cells, notes=notes)


def _layers(sizes: Sizes) -> list[int]:
    """The numbers of the decoder layers that the recipe adapts."""
    config: Any = sizes.skeleton.model.config
    return sizes.section.layers_to_transform or list(range(config.get_text_config().num_hidden_layers))
