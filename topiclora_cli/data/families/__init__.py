"""A small multi-topic task set that needs no download: sixteen families of problems, generated from a seed.

It is what the quickstart trains on. Every family carries BIG-bench topic keywords, half of them ask for a choice and
half for a free answer of a few tokens, and a problem belongs to train, validation or test for good.
"""

from topiclora_cli.data.families.example import SPLITS, Example, Family
from topiclora_cli.data.families.registry import FAMILIES, generate, mixture

__all__ = ["FAMILIES", "SPLITS", "Example", "Family", "generate", "mixture"]
