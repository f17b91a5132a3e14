"""lm-eval's view of a model, with the end of each request's prompt made known to routers that pool over it."""

from collections.abc import Sequence
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from torch import Tensor

from topiclora_cli.adapters import prompt_tokens

Request = tuple[Any, list[int], list[int]]  # the two strings, the context's tokens, the continuation's


class PromptedLM(HFLM):
    """HFLM that scores a continuation as training did: the prompt is lm-eval's context, and no token of an answer.

    Without it a router by prompt would average over the options of a question, too, each option with gates of its own.
    """

    _prompts: dict[tuple[int, ...], int]

    def _loglikelihood_tokens(
        self, requests: Sequence[Request], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        # The harness runs requests with equal tokens but the last once. Where their contexts differ in length, so do
        # their prompts, and they take turns.
        turns: list[tuple[dict[tuple[int, ...], int], list[int]]] = []
        for index, (_, context, continuation) in enumerate(requests):
            tokens = (context + continuation)[-(self.max_length + 1) :][:-1]
            key, prompt = _unpadded(tokens), len(tokens) - len(continuation) + 1
            for prompts, indices in turns:
                if prompts.setdefault(key, prompt) == prompt:
                    indices.append(index)
                    break
            else:
                turns.append(({key: prompt}, [index]))
        results: list[Any] = [None] * len(requests)
        for prompts, indices in turns:
            self._prompts = prompts
            answers = super()._loglikelihood_tokens([requests[i] for i in indices], disable_tqdm, override_bs)
            for index, answer in zip(indices, answers, strict=True):
                results[index] = answer
        return results

    def _model_call(self, inps: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        lengths = torch.tensor([self._prompts[_unpadded(row)] for row in inps.tolist()], device=inps.device)
        with prompt_tokens((torch.arange(inps.shape[1], device=inps.device) < lengths[:, None]).float()):
            return super()._model_call(inps, *args, **kwargs)

    def _model_generate(self, context: Tensor, max_length: int, stop: list[str], **options: Any) -> Tensor:
        with prompt_tokens(options["attention_mask"].float()):
            return super()._model_generate(context, max_length, stop, **options)


def _unpadded(tokens: Sequence[int]) -> tuple[int, ...]:
    """Tokens without the zeros at their end, which may be the harness's padding: it keeps no mask of it."""
    end = len(tokens)
    while end and tokens[end - 1] == 0:
        end -= 1
    return tuple(tokens[:end])
