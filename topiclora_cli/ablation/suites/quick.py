"""The sizes at which a suite's cells take a minute or two each on one core: enough to see that all of it works."""

from typing import Any

from topiclora_cli.recipe import Recipe
from topiclora_cli.recipe.data import EMBEDDED

STEPS, BATCH = 8, 8
PER_FAMILY, EXAMPLES = 8, 128  # of training, of the embedded families and of other sources
QUESTIONS = 2  # of each task


def quick_values(recipe: Recipe) -> dict[str, Any]:
    """Few steps, examples and questions, one seed and nothing tuned, as dotted keys and values; never more than the
    recipe asks for itself.
    """
    data, train, section = recipe.data, recipe.train, recipe.eval
    values: dict[str, Any] = {
        "train.max_steps": min(STEPS, train.max_steps or STEPS),
        "train.batch_size": min(BATCH, train.batch_size),
        "train.gradient_accumulation": 1,
        "ablation.seeds": recipe.ablation.seeds[:1],
        "ablation.tune": {},
    }
    if section.samples is None:
        limit = section.limit
        values["eval.limit"] = QUESTIONS if limit is None else min(QUESTIONS, limit)
    if section.probes:
        values["eval.probe_questions"] = 1
    if section.questions is not None:
        values["eval.questions.limit"] = min(QUESTIONS, section.questions.limit or QUESTIONS)
    if data.source == EMBEDDED and not data.sources:
        values["data.per_family"] = min(PER_FAMILY, data.per_family)
    elif data.limit_by is None and not data.streaming:
        values["data.limit"] = min(EXAMPLES, data.limit or EXAMPLES)
    return values
