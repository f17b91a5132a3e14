"""How many examples a recipe that holds none out can spare for choosing by their loss."""

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe import Recipe
from topiclora_cli.stages.training_data import training_data

MOST = 200  # whose mean loss tells rates apart
SHARE = 8  # at most one of so many
OF_A_STREAM = 0.02


def enough_held_out(recipe: Recipe) -> float:
    """A value of data.validation: 200 examples, of a small set an eighth, of a stream two in a hundred.

    Raises TopicLoraError for a set that is too small, and as training does for data that cannot be read.
    """
    if recipe.data.streaming:
        return OF_A_STREAM
    number = len(training_data(recipe).train)
    if number < 2 * SHARE:
        raise TopicLoraError(
            f"{number} training examples are too few to hold some out for --tune.", "Set data.validation yourself."
        )
    return min(MOST, number // SHARE)
