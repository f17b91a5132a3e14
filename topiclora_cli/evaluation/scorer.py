"""lm-eval's view of a model, with the end of each request's prompt made known to routers that pool over it."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from lm_eval.models.huggingface import HFLM
from torch import Tensor

from topiclora_cli.adapters import prompt_tokens
from topiclora_cli.evaluation.shared_prompt import SharedPrompt, continued, goes_on, in_batches, scored, shared_prompts

Request = tuple[Any, list[int], list[int]]  # the two strings, the context's tokens, the continuation's


class PromptedLM(HFLM):
    """HFLM that scores a continuation as training did: the prompt is lm-eval's context, and no token of an answer.

    Without it a router by prompt would average over the options of a question, too, each option with gates of its own.
    """

    _prompts: dict[tuple[int, ...], int]

    def _loglikelihood_tokens(
        self, requests: Sequence[Request], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        results: list[Any] = [None] * len(requests)
        if self.backend == "causal" and getattr(self.model.config, "use_cache", None):
            shared = shared_prompts([request[1:] for request in requests], max_length=self.max_length)
            for batch in in_batches(shared, int(override_bs or self.batch_size)):
                scores = self._score_together(batch)
                if not scores:
                    break
                for index, score in scores.items():
                    results[index] = score
        alone = [index for index, result in enumerate(results) if result is None]
        answers = self._score_alone([requests[index] for index in alone], disable_tqdm, override_bs)
        for index, answer in zip(alone, answers, strict=True):
            results[index] = answer
        return results

    @torch.no_grad()
    def _score_together(self, batch: Sequence[SharedPrompt]) -> dict[int, tuple[float, bool]]:
        """Scores by the number of the request; none where the model's cache cannot be gone on from several times."""
        prompts = torch.tensor([prompt.tokens for prompt in batch], device=self.device)
        bfloat16 = self.mixed_precision_dtype is not None
        with torch.autocast(self.device.type, dtype=self.mixed_precision_dtype, enabled=bfloat16):
            with prompt_tokens(torch.ones_like(prompts, dtype=torch.float)):
                output = self.model(prompts, use_cache=True, **self._last_logits)
            cache: Any = getattr(output, "past_key_values", None)
            if not goes_on(cache):
                return {}
            rows, starts = (each.to(self.device) for each in continued(batch))
            first, following = output.logits[:, -1], None
            if starts.numel():
                cache.reorder_cache(rows)
                with prompt_tokens(torch.ones_like(prompts[rows], dtype=torch.float)):
                    following = self.model(starts, past_key_values=cache, use_cache=True).logits
        steps = [F.log_softmax(each, -1, dtype=self.softmax_dtype) for each in (first, following) if each is not None]
        return scored(batch, steps[0], steps[1] if len(steps) > 1 else None)

    @property
    def _last_logits(self) -> dict[str, int]:
        """Leave out the other logits of a prompt where the model can."""
        base = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        return {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(base.forward).parameters else {}

    def _score_alone(self, requests: Sequence[Request], disable_tqdm: bool, override_bs: int | None) -> list[Any]:
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
