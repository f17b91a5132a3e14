"""Means over a batch that is a whole step, as the losses that are functions of means take them."""

from topiclora_cli.training.losses import token_sum


def over_tokens(values, mask):
    """Mean over real tokens: values (B, S, ...), mask (B, S) -> (...)."""
    return token_sum(values, mask=mask) / mask.sum()


def over_examples(values):
    """Mean over examples: values (B, ...) -> (...)."""
    return values.mean(0)
