"""PERFT, adapters beside the experts of sparse mixture models: configuration, layer, model."""

from topiclora_cli.adapters.perft.config import PerftConfig
from topiclora_cli.adapters.perft.layer import NO_MERGE, PerftBlock, PerftLayer
from topiclora_cli.adapters.perft.model import PerftModel

__all__ = ["NO_MERGE", "PerftBlock", "PerftConfig", "PerftLayer", "PerftModel"]
