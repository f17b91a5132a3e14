"""The model under evaluation as lm-eval sees it, loaded no sooner than a question has to be put to it."""

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from topiclora_cli.errors import TopicLoraError, nearest
from topiclora_cli.evaluation.harness import EvalRequest
from topiclora_cli.evaluation.vllm import VllmModel, open_vllm

Loaded = tuple[PreTrainedModel | PeftModel, PreTrainedTokenizerBase] | VllmModel


class Subject:
    """What scores the requests of lm-eval's tasks; load: the model in evaluation mode and its tokenizer, or what
    vLLM is to load."""

    def __init__(self, load: Callable[[], Loaded], request: EvalRequest) -> None:
        self._load, self._request = load, request
        self._side: tuple[PreTrainedTokenizerBase, str] | None = None

    @cached_property
    def scorer(self) -> Any:
        """Raises TopicLoraError where a chat template is missing."""
        from topiclora_cli.evaluation.scorer import PromptedLM

        loaded = self._load()
        if isinstance(loaded, VllmModel):
            engine = open_vllm(loaded, self._request)
            _check_template(engine.tokenizer.chat_template, self._request.chat_template)
            return engine
        model, tokenizer = loaded
        _check_template(tokenizer.chat_template, self._request.chat_template)
        self._side = tokenizer, tokenizer.padding_side
        return PromptedLM(
            pretrained=model,
            tokenizer=tokenizer,
            batch_size=self._request.batch_size,
            mixed_precision_dtype="bfloat16" if self._request.bfloat16 else None,
        )

    @cached_property
    def about(self) -> Any:
        """What lm-eval's files say of the model's tokenizer and chat template."""
        from lm_eval.loggers.utils import add_tokenizer_info

        tokenizer: dict[str, Any] = {}
        add_tokenizer_info(tokenizer, self.scorer)
        template = self.scorer.chat_template(self._request.chat_template) if self._request.chat_template else None
        return {"tokenizer": tokenizer, "chat_template": template}

    def release(self) -> None:
        """Leave the tokenizer as it came."""
        if self._side is not None:
            tokenizer, side = self._side
            tokenizer.padding_side = side


def _check_template(own: Any, wanted: bool | str) -> None:
    if wanted and own is None:
        raise TopicLoraError("The model's tokenizer has no chat template.", "Set eval.chat_template to false.")
    if isinstance(wanted, str) and (not isinstance(own, Mapping) or wanted not in own):
        hint = nearest(wanted, own) if isinstance(own, Mapping) else "It has one, without a name: chat_template: true."
        raise TopicLoraError(f"The model's tokenizer has no chat template {wanted!r}.", hint)
