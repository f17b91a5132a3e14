"""What every kind of adapter can be asked."""

from collections.abc import Mapping
from typing import Literal

from pydantic import field_validator

from topiclora_cli.errors import nearest
from topiclora_cli.recipe.methods import DEFAULT, METHODS
from topiclora_cli.recipe.section import Section

EXPERTS = 8  # how many a mixture has, and a topic graph is made for, where nobody says


class MethodSection(Section):
    """The trainable part: a method by name (recipe/methods.py brings its values) and what to change of it."""

    method: str = DEFAULT
    """The method by name, which brings its layer and values; see `topiclora methods`."""

    @property
    def layer(self) -> str:
        """Which layer carries the method: our `mixture`, `perft`, or one of peft's own by name."""
        return METHODS[self.method].layer

    @property
    def routes(self) -> bool:
        """Whether the method has routers of its own, which a prior can shape."""
        return False

    @property
    def exports(self) -> bool:
        """Whether fixed gates turn the adapter into a plain LoRA (`topiclora merge`)."""
        return False

    @property
    def graph_experts(self) -> int | Literal["auto"]:
        """How many experts a topic graph of this recipe is for."""
        return EXPERTS

    @property
    def targets(self) -> str | list[str]:
        """The layers that are adapted, or a role that names them."""
        return "all-linear"

    @property
    def ranks(self) -> list[int]:
        """The ranks from the lowest layers to the highest; none where trained adapters bring theirs."""
        return []

    @property
    def starts(self) -> Mapping[str, bool | str]:
        """What says how the trainable part starts, by its key."""
        return {}

    @property
    def trained(self) -> list[str]:
        """Folders of the trained adapters that this one is made of."""
        return []

    @field_validator("method")
    @classmethod
    def _known(cls, method: str) -> str:
        if method not in METHODS:
            raise ValueError(f"unknown method; known: {', '.join(METHODS)}. {nearest(method, METHODS)}")
        return method
