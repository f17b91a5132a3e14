"""PERFT: adapters beside the experts of a sparse base."""

from typing import Literal

from topiclora_cli.recipe.adapter.experts import ExpertsSection


class PerftSection(ExpertsSection):
    """PERFT: adapters beside the experts of a sparse base; the method brings what is not said."""

    variant: Literal["routed", "embedded", "dense", "shared"] = "routed"
    """Adapters with a router of their own (routed), one in each of the base's experts under its router (embedded), or
    without a router (dense, shared)."""
    adapter_type: Literal["lora", "parallel"] = "lora"
    """LoRA, or a parallel bottleneck."""
    renormalize: Literal["auto", "on", "off"] = "auto"
    """Whether chosen gates sum to 1; auto does as the base's do."""
    router_weight_source: Literal["own", "pretrained"] = "own"
    """Whose probabilities weigh the chosen adapters: their own router's, or the base's."""

    @property
    def routes(self) -> bool:
        """Whether the method has routers of its own, which a prior can shape."""
        return self.variant == "routed"
