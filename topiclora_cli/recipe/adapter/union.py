"""The kinds of adapter as one section, told apart by the layer that carries the method."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Discriminator, Tag
from pydantic.fields import FieldInfo

from topiclora_cli.recipe.adapter.method import MethodSection
from topiclora_cli.recipe.adapter.mixture import MixtureSection
from topiclora_cli.recipe.adapter.perft import PerftSection
from topiclora_cli.recipe.adapter.stock import AdaloraSection, LoraSection, XloraSection
from topiclora_cli.recipe.methods import DEFAULT, METHODS

KINDS: Mapping[str, type[MethodSection]] = {
    "mixture": MixtureSection,
    "perft": PerftSection,
    "lora": LoraSection,
    "adalora": AdaloraSection,
    "xlora": XloraSection,
}
# Every key of any kind; one that several have means and defaults to the same in all.
FIELDS: Mapping[str, FieldInfo] = {key: field for kind in KINDS.values() for key, field in kind.model_fields.items()}


def layer_of(values: Any) -> str:
    """The layer of a section's values; of an unknown method the default's, which says that it is unknown."""
    method = values.get("method", DEFAULT) if isinstance(values, Mapping) else getattr(values, "method", DEFAULT)
    return METHODS[method if isinstance(method, str) and method in METHODS else DEFAULT].layer


AdapterSection = Annotated[
    Annotated[MixtureSection, Tag("mixture")]
    | Annotated[PerftSection, Tag("perft")]
    | Annotated[LoraSection, Tag("lora")]
    | Annotated[AdaloraSection, Tag("adalora")]
    | Annotated[XloraSection, Tag("xlora")],
    Discriminator(layer_of),
]


def every_key(adapter: Mapping[str, Any]) -> dict[str, Any]:
    """A section's values beside the defaults of the keys that only other kinds have."""
    return {key: field.default for key, field in FIELDS.items()} | dict(adapter)
