"""lm-eval's view of a model, with the end of each request's prompt made known to routers that pool over it."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from lm_eval.models.huggingface import HFLM
from torch import Tensor

from topiclora_cli.adapters import prompt_tokens
from topiclora_cli.evaluation.shared_prompt import (
    Scored,
    SharedPrompt,
    cache_of,
    continuations,
    goes_on,
    in_batches,
    scored,
    shared_prompts,
    starts,
)
from topiclora_cli.evaluation.shares import generation_batches, likelihood_batches, several, shared_out
from topiclora_cli.runs.processes import in_first

Request = tuple[Any, list[int], list[int]]  # the two strings, the context's tokens, the continuation's


class PromptedLM(HFLM):  # type: ignore[misc]  # lm-eval has no types
    """HFLM that scores a continuation as training did: the prompt is lm-eval's context, and no token of an answer.

    Without it a router by prompt would average over the options of a question, too, each option with gates of its own.
    """

    _prompts: Mapping[tuple[int, ...], int] = {}
    _noted: list[Any] | None = None  # takes requests in place of scoring them
    _known: list[list[Scored]] | None = None  # answers to the next calls
    on_scored: Callable[[float], None] = staticmethod(lambda part: None)
    """Called with the part of a task's requests that are scored, as far as their number tells."""

    def _loglikelihood_tokens(
        self, requests: Sequence[Request], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        if self._noted is not None:
            self._noted.append(requests)
            return [(0.0, False)] * len(requests)
        if self._known:
            return self._known.pop(0)
        results: list[Any] = [None] * len(requests)
        if self.backend == "causal" and getattr(self.model.config, "use_cache", None):
            shared = shared_prompts([request[1:] for request in requests], max_length=self.max_length)
            size, done = self._size(requests, override_bs), 0

            def told(answers: int) -> None:
                nonlocal done
                done += answers
                self.on_scored(min(1.0, done / len(requests)))

            batches = list(in_batches(shared, size))
            for index, score in shared_out(batches, lambda batch: self._score_together(batch, size), told).items():
                results[index] = score
        alone = [index for index, result in enumerate(results) if result is None]
        answers = self._score_alone([requests[index] for index in alone], override_bs)
        for index, answer in zip(alone, answers, strict=True):
            results[index] = answer
        return results

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """The log-likelihood of whole texts; several processes share out the windows that lm-eval cuts these into."""
        if not several():
            return list(super().loglikelihood_rolling(requests, disable_tqdm))
        self._noted = []
        try:
            super().loglikelihood_rolling(requests, True)
        finally:
            calls, self._noted = self._noted, None
        found = shared_out(
            range(len(calls)),
            lambda number: {number: self._loglikelihood_tokens(calls[number], True, len(calls[number]))},
        )
        self._known = [found[number] for number in range(len(calls))]
        return list(super().loglikelihood_rolling(requests, True))

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """What the model writes; several processes share out the batches that lm-eval makes of the requests."""
        if not several():
            return list(super().generate_until(requests, disable_tqdm))
        size = int(in_first(self._detect_batch_size) if self.batch_size == "auto" else self.batch_size)
        texts, settings = zip(*(request.args for request in requests), strict=True)
        lengths = [(len(self.tok_encode(text)), text) for text in texts]

        def generate(batch: list[int]) -> dict[int, str]:
            written = HFLM.generate_until(self, [requests[index] for index in batch], True)
            return dict(zip(batch, written, strict=True))

        found = shared_out(generation_batches(list(map(repr, settings)), lengths, size), generate)
        return [found[index] for index in range(len(requests))]

    def _size(self, requests: Sequence[Request], override_bs: int | None) -> int:
        if override_bs or self.batch_size != "auto":
            return int(override_bs or self.batch_size)
        longest = max(requests, key=lambda request: len(request[1]) + len(request[2]))
        return in_first(lambda: int(self._detect_batch_size([longest])))

    @torch.no_grad()
    def _score_together(self, batch: Sequence[SharedPrompt], size: int) -> dict[int, Scored]:
        """Scores by the number of the request; none where the model's cache cannot be gone on from several times."""
        prompts = torch.tensor([prompt.tokens for prompt in batch], device=self.device)
        output = self._call(prompts, of=prompts, **self._last_logits)
        cache: Any = getattr(output, "past_key_values", None)
        if not goes_on(cache):
            return {}
        first = F.log_softmax(output.logits[:, -1], -1, dtype=self.softmax_dtype)
        scores: dict[int, Scored] = {}
        for part in continuations(batch, size):
            following, tokens = None, starts(part).to(self.device)
            if tokens.numel():
                rows = prompts[[each.row for each in part]]
                logits = self._call(tokens, of=rows, past_key_values=cache_of(part, cache)).logits
                following = F.log_softmax(logits, -1, dtype=self.softmax_dtype)
            scores |= scored(part, first, following)
        return scores

    def _call(self, tokens: Tensor, *, of: Tensor, **settings: Any) -> Any:
        """The model on tokens that belong to the prompts `of`."""
        dtype = self.mixed_precision_dtype
        with (
            torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None),
            prompt_tokens(torch.ones_like(of, dtype=torch.float)),
        ):
            return self.model(tokens, use_cache=True, **settings)

    @property
    def _last_logits(self) -> dict[str, int]:
        """Leave out the other logits of a prompt where the model can."""
        base = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        return {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(base.forward).parameters else {}

    def _score_alone(self, requests: Sequence[Request], override_bs: int | None) -> list[Any]:
        # The harness runs requests with equal tokens but the last once. Where their contexts differ in length, so do
        # their prompts, and they take turns.
        turns: list[tuple[dict[tuple[int, ...], int], list[int]]] = []
        for index, (_, context, continuation) in enumerate(requests):
            tokens = (context + continuation)[-(self.max_length + 1) :][:-1]
            key, prompt = unpadded(tokens), len(tokens) - len(continuation) + 1
            for prompts, indices in turns:
                if prompts.setdefault(key, prompt) == prompt:
                    indices.append(index)
                    break
            else:
                turns.append(({key: prompt}, [index]))
        results: list[Any] = [None] * len(requests)
        for prompts, indices in turns:
            self._prompts = prompts
            for index, answer in zip(indices, self._in_turn([requests[i] for i in indices], override_bs), strict=True):
                results[index] = answer
        return results

    def _in_turn(self, requests: Sequence[Request], override_bs: int | None) -> list[Scored]:
        """The harness's own scores."""
        if not several():
            return list(super()._loglikelihood_tokens(requests, True, override_bs))
        size = self._size(requests, override_bs)

        def score(batch: list[int]) -> dict[int, Scored]:
            answers = HFLM._loglikelihood_tokens(self, [requests[index] for index in batch], True, size)
            return dict(zip(batch, answers, strict=True))

        found = shared_out(likelihood_batches([request[1:] for request in requests], size), score)
        return [found[index] for index in range(len(requests))]

    def _model_call(self, inps: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        # What the harness tries a batch size with is no request.
        known = [self._prompts.get(unpadded(row), len(row)) for row in inps.tolist()]
        lengths = torch.tensor(known, device=inps.device)
        with prompt_tokens((torch.arange(inps.shape[1], device=inps.device) < lengths[:, None]).float()):
            logits: Tensor = super()._model_call(inps, *args, **kwargs)
            return logits

    def _model_generate(self, context: Tensor, max_length: int, stop: list[str], **options: Any) -> Tensor:
        with prompt_tokens(options["attention_mask"].float()):
            tokens: Tensor = super()._model_generate(context, max_length, stop, **options)
            return tokens


def unpadded(tokens: Sequence[int]) -> tuple[int, ...]:
    """Tokens without the zeros at their end, which may be the harness's padding: it keeps no mask of it."""
    end = len(tokens)
    while end and tokens[end - 1] == 0:
        end -= 1
    return tuple(tokens[:end])
