"""lm-eval's view of a model, with the end of each request's prompt made known to routers that pool over it."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from lm_eval.models.huggingface import HFLM
from torch import Tensor

from topiclora_cli.adapters import prompt_tokens, unchanging_weights
from topiclora_cli.evaluation.shared_prompt import (
    PromptBatch,
    Scored,
    behind,
    cache_of,
    continuations,
    goes_on,
    in_batches,
    scored,
    shared_prompts,
    starts,
)
from topiclora_cli.evaluation.shares import generation_batches, likelihood_batches, several, shared_out
from topiclora_cli.models.precision import rounded_head
from topiclora_cli.runs.processes import in_first

Request = tuple[Any, list[int], list[int]]  # the two strings, the context's tokens, the continuation's


class PromptedLM(HFLM):  # type: ignore[misc]  # lm-eval has no types
    """HFLM that scores a continuation as training did: the prompt is lm-eval's context, and no token of an answer.

    Without it a router by prompt would average over the options of a question, too, each option with gates of its own.
    """

    _prompts: Mapping[tuple[int, ...], int] = {}
    _noted: list[Any] | None = None  # takes requests in place of scoring them
    _known: list[list[Scored]] | None = None  # answers to the next calls
    shares_prefixes = True  # whether what prompts begin with may run once for all of them
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
        with self._unchanging():
            return self._scores(requests, override_bs)

    def _scores(self, requests: Sequence[Request], override_bs: int | None) -> list[Scored]:
        results: list[Any] = [None] * len(requests)
        if self._goes_on:
            shared = shared_prompts([request[1:] for request in requests], max_length=self.max_length)
            size, done = self._size(requests, override_bs), 0

            def told(answers: int) -> None:
                nonlocal done
                done += answers
                self.on_scored(min(1.0, done / len(requests)))

            begun = lru_cache(1)(self._begin)  # batches with one prefix follow one another

            def score(batch: PromptBatch) -> dict[int, Scored]:
                return self._score_together(batch, size, begun)

            batches = list(in_batches(shared, size, prefixes=self.shares_prefixes))
            for index, answer in shared_out(batches, score, told).items():
                results[index] = answer
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
        with self._unchanging():
            return self._written(requests, disable_tqdm)

    @contextmanager
    def _unchanging(self) -> Iterator[None]:
        bfloat16 = self.mixed_precision_dtype == torch.bfloat16
        with unchanging_weights(self.model), rounded_head(self.model, bfloat16=bfloat16):
            yield

    def _written(self, requests: Sequence[Any], disable_tqdm: bool) -> list[str]:
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

    @property
    def _goes_on(self) -> bool:
        """Whether the model may keep keys and values from one call to the next."""
        tuned = getattr(self.model, "active_peft_config", None)
        virtual = tuned is not None and tuned.is_prompt_learning  # tokens that peft puts before those of any call
        return self.backend == "causal" and bool(getattr(self.model.config, "use_cache", None)) and not virtual

    @torch.no_grad()
    def _begin(self, prefix: tuple[int, ...]) -> Any:
        """The keys and values of what prompts begin with."""
        tokens = torch.tensor([prefix], device=self.device)
        last = self._logits_at([len(prefix) - 1], tokens)
        return getattr(self._call(tokens, [prefix], **last), "past_key_values", None)

    @torch.no_grad()
    def _score_together(
        self, batch: PromptBatch, size: int, begun: Callable[[tuple[int, ...]], Any]
    ) -> dict[int, Scored]:
        """Scores by the number of the request; none where the model's cache cannot be gone on from several times."""
        prompts = [prompt.tokens for prompt in batch.prompts]
        settings: dict[str, Any] = {}
        if batch.prefix:
            prefix = begun(batch.prefix)
            if not goes_on(prefix):
                return {}
            settings["past_key_values"] = cache_of([0] * len(prompts), prefix, length=len(batch.prefix))
        tokens, ends = behind(batch)
        places = sorted(set(ends))
        kept = self._logits_at(places, tokens)
        output = self._call(tokens.to(self.device), prompts, **settings, **kept)
        cache: Any = getattr(output, "past_key_values", None)
        if not goes_on(cache):
            return {}
        at = torch.tensor([places.index(end) if kept else end for end in ends], device=self.device)
        last = output.logits[torch.arange(len(prompts), device=self.device), at]
        first = F.log_softmax(last, -1, dtype=self.softmax_dtype)
        scores: dict[int, Scored] = {}
        for part in continuations(batch.prompts, size):
            following, tokens = None, starts(part).to(self.device)
            if tokens.numel():
                rows = [each.row for each in part]
                of = [prompts[row] for row in rows]
                logits = self._call(tokens, of, past_key_values=cache_of(rows, cache, length=len(of[0]))).logits
                following = F.log_softmax(logits, -1, dtype=self.softmax_dtype)
            scores |= scored(part, first, following)
        return scores

    def _call(self, tokens: Tensor, prompts: Sequence[tuple[int, ...]], **settings: Any) -> Any:
        """The model on tokens that belong to these prompts, one of each row."""
        dtype = self.mixed_precision_dtype
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=self.device)
        mask = torch.arange(int(lengths.max()), device=self.device) < lengths[:, None]
        with torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None), prompt_tokens(mask.float()):
            return self.model(tokens, use_cache=True, **settings)

    def _logits_at(self, places: list[int], of: Tensor) -> dict[str, Any]:
        """Leave out the logits of a call's other tokens (B, S) where the model can."""
        base = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        if "logits_to_keep" not in inspect.signature(base.forward).parameters:
            return {}
        if places == [of.shape[1] - 1]:
            return {"logits_to_keep": 1}
        # Code that comes with a model may know a number alone.
        own = type(base).__module__.startswith("transformers.")
        return {"logits_to_keep": torch.tensor(places, device=self.device)} if own else {}

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
