"""lm-eval's view of a model for what has to know whose prompt each row of a batch is."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor

from topiclora_cli.evaluation.scorer import PromptedLM, unpadded

Prompts = Sequence[tuple[int, ...]]  # the prompt's tokens of every row


class RowsLM(PromptedLM):
    """PromptedLM that opens a block around each call of the model, with the prompts of the batch's rows.

    What prompts begin with is no prompt, and runs with each of them.
    """

    shares_prefixes = False

    around: Callable[[Prompts], AbstractContextManager[Any]] = staticmethod(lambda prompts: nullcontext())

    def _call(self, tokens: Tensor, prompts: Prompts, **settings: Any) -> Any:
        with self.around(prompts):
            return super()._call(tokens, prompts, **settings)

    def _model_call(self, inps: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        with self.around([tuple(row[: self._prompts.get(unpadded(row), len(row))]) for row in inps.tolist()]):
            return super()._model_call(inps, *args, **kwargs)

    def _model_generate(self, context: Tensor, max_length: int, stop: list[str], **options: Any) -> Tensor:
        kept = options["attention_mask"].bool()
        with self.around([tuple(row[mask].tolist()) for row, mask in zip(context, kept, strict=True)]):
            return super()._model_generate(context, max_length, stop, **options)
