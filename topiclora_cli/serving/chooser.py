"""Which adapter a prompt asks for, told by the topic prior; prompts that come at the same time are read together."""

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from topiclora_cli.topics.adapters import adapter_for
from topiclora_cli.topics.prior import TopicPrior

# Far more than the text encoders read; what is beyond costs time, and changes no topic.
MOST_CHARACTERS = 32_768
MOST_TOGETHER = 16


@dataclass(frozen=True)
class Choice:
    """The adapter that a prompt asks for, the topic of that adapter's that it is most about, and how much.

    truncated: whether the prompt is longer than what was read of it.
    """

    adapter: str
    topic: str
    relevance: float
    truncated: bool


class Chooser:
    """Callable from prompts to a Choice for each; `topics` has the adapter of every topic of the prior's graph."""

    def __init__(self, prior: TopicPrior, topics: Mapping[str, str]) -> None:
        self.prior, self.topics = prior, topics

    def __call__(self, prompts: Sequence[str]) -> list[Choice]:
        # What JSON may escape need not be Unicode, which tokenizers insist on.
        texts = [text[:MOST_CHARACTERS].encode("utf-8", "replace").decode("utf-8") for text in prompts]
        graph, relevance = self.prior.graph, self.prior(texts).relevance
        chosen = adapter_for(graph, relevance, self.topics)
        return [
            self._choice(adapter, row, truncated=len(prompt) > len(text) or self._is_cut(text))
            for prompt, text, adapter, row in zip(prompts, texts, chosen, relevance.tolist(), strict=True)
        ]

    def _choice(self, adapter: str, relevance: Sequence[float], *, truncated: bool) -> Choice:
        scores = zip(relevance, self.prior.graph.topics, strict=True)
        best, topic = max((score, topic) for score, topic in scores if self.topics[topic] == adapter)
        return Choice(adapter, topic, best, truncated)

    def _is_cut(self, text: str) -> bool:
        encoder: Any = self.prior.encoder
        most = getattr(encoder, "max_tokens", None)
        # A token has a character at least.
        return most is not None and len(text) > most and len(encoder.tokenizer(text)["input_ids"]) > most


class Together:
    """A Chooser for many callers at once: while some prompts are read, those that come wait to be read as one batch."""

    def __init__(self, choose: Callable[[Sequence[str]], list[Choice]], most: int = MOST_TOGETHER) -> None:
        self._choose, self._most = choose, most
        self._waiting: list[tuple[str, asyncio.Future[Choice]]] = []
        self._work: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="topics")

    async def __call__(self, prompt: str) -> Choice:
        future: asyncio.Future[Choice] = asyncio.get_running_loop().create_future()
        self._waiting.append((prompt, future))
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._read())
        return await future

    async def _read(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
            batch = [(prompt, future) for prompt, future in batch if not future.done()]  # who left is not read
            try:
                loop = asyncio.get_running_loop()
                choices = await loop.run_in_executor(self._thread, self._choose, [prompt for prompt, _ in batch])
            except Exception as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
            else:
                for (_, future), choice in zip(batch, choices, strict=True):
                    if not future.done():
                        future.set_result(choice)

    async def close(self) -> None:
        """Stop reading; whoever waits is cancelled."""
        if self._work is not None:
            self._work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._work
        for _, future in self._waiting:
            future.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)
