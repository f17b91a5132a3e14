"""The recipe's section on the trainable part: a kind for each layer that carries methods."""

from topiclora_cli.recipe.adapter.experts import ExpertsSection
from topiclora_cli.recipe.adapter.mixture import MixtureSection
from topiclora_cli.recipe.adapter.perft import PerftSection
from topiclora_cli.recipe.adapter.sizes import SizedSection
from topiclora_cli.recipe.adapter.stock import AdaloraSection, LoraSection, XloraSection
from topiclora_cli.recipe.adapter.union import FIELDS, KINDS, AdapterSection, every_key, layer_of

__all__ = [
    "FIELDS",
    "KINDS",
    "AdaloraSection",
    "AdapterSection",
    "ExpertsSection",
    "LoraSection",
    "MixtureSection",
    "PerftSection",
    "SizedSection",
    "XloraSection",
    "every_key",
    "layer_of",
]
