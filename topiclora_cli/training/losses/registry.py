"""All terms of the loss by name: those of the recipe's loss section, in the order in which they are added up."""

from collections.abc import Iterator

from topiclora_cli.recipe.loss import LossSection
from topiclora_cli.training.losses.of_steps import OF_STEPS
from topiclora_cli.training.losses.of_tokens import OF_TOKENS
from topiclora_cli.training.losses.term import Term

TERMS = {term.name: term for term in (*OF_TOKENS, *OF_STEPS)}


def wanted(section: LossSection) -> Iterator[Term]:
    """The terms whose weight is above zero."""
    return (term for term in TERMS.values() if term.weight(section) > 0)
