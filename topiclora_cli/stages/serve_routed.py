"""A run's routed model, ready to be served."""

import copy
from functools import partial

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe import Recipe
from topiclora_cli.runs.run import RunDir
from topiclora_cli.serving.routed import Routed
from topiclora_cli.stages.asking import chat_ids
from topiclora_cli.stages.inputs import answering, load_tuned


def open_routed(recipe: Recipe, run: RunDir) -> Routed:
    """A run's adapter on its base under the name of the run's folder; raises TopicLoraError as `load_tuned` does.

    An answer ends where the base ends one, and at the token that ended the completions of training. Where a request
    says nothing of the temperature, tokens are drawn at 1, as OpenAI's API has it.
    """
    base, model = load_tuned(recipe, run)
    config = copy.deepcopy(base.model.generation_config)
    if config is None:
        raise TopicLoraError(f"{base.source} is no model that generates text.", "Serve a run on one that does.")
    ends = config.eos_token_id if config.eos_token_id is not None else []
    ends = [*(ends if isinstance(ends, list) else [ends]), base.tokenizer.eos_token_id]
    config.update(
        eos_token_id=list(dict.fromkeys(ends)), pad_token_id=base.tokenizer.pad_token_id, do_sample=True, top_k=0
    )
    base.model.generation_config = config
    return Routed(
        run.path.resolve().name,
        model,
        base.tokenizer,
        partial(chat_ids, recipe, base.tokenizer),
        partial(answering, recipe, base.model),
    )
