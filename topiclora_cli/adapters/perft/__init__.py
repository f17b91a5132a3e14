"""PERFT, adapters beside the experts of sparse mixture models: configuration, layer, model."""

from topiclora_cli.adapters.perft.config import PerftConfig
from topiclora_cli.adapters.perft.layer import PerftBlock, PerftLayer
from topiclora_cli.adapters.perft.model import PerftModel

__all__ = ["PerftBlock", "PerftConfig", "PerftLayer", "PerftModel"]
