"""PERFT: adapters beside the experts of a sparse base."""

from typing import Literal

from topiclora_cli.recipe.adapter.experts import ExpertsSection


class PerftSection(ExpertsSection):
    """PERFT: adapters beside the experts of a sparse base; the method brings what is not said.

    variant: with a router of their own (routed), one in each of the base's experts under its router (embedded), or
    without a router (dense, shared). adapter_type: LoRA, or a parallel bottleneck. renormalize: whether chosen gates
    sum to 1; auto does as the base's do. router_weight_source: whose probabilities weigh the chosen adapters.
    """

    variant: Literal["routed", "embedded", "dense", "shared"] = "routed"
    adapter_type: Literal["lora", "parallel"] = "lora"
    renormalize: Literal["auto", "on", "off"] = "auto"
    router_weight_source: Literal["own", "pretrained"] = "own"

    @property
    def routes(self) -> bool:
        """Whether the method has routers of its own, which a prior can shape."""
        return self.variant == "routed"
