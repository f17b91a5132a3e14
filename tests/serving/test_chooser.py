"""Which adapter a prompt asks for, and prompts of many callers read as batches."""

import asyncio

import pytest

from tests.serving.helpers import TOPICS
from topiclora_cli.serving.chooser import MOST_CHARACTERS, Choice, Chooser, Together
from topiclora_cli.topics.encoder import HashEncoder
from topiclora_cli.topics.prior import TopicPrior


class Words:
    """An encoder that reads a few words, one token each."""

    id, max_tokens = "hash:64", 3

    def __init__(self):
        self.encode = HashEncoder(64).encode

    def tokenizer(self, text):
        return {"input_ids": text.split()}


def test_the_topic_is_the_chosen_adapter_s_most_relevant(small_graph):
    (choice,) = Chooser(TopicPrior(small_graph, HashEncoder(64)), TOPICS)(["solving equations with whole numbers"])
    relevance = TopicPrior(small_graph, HashEncoder(64))(["solving equations with whole numbers"]).relevance[0]
    assert choice == Choice("maths", "algebra", float(relevance[small_graph.topics.index("algebra")]), False)


@pytest.mark.parametrize(
    ("text", "truncated"), [("one two three", False), ("one two three four", True), ("a" * (MOST_CHARACTERS + 1), True)]
)
def test_what_the_encoder_leaves_out_is_said(text, truncated, small_graph):
    (choice,) = Chooser(TopicPrior(small_graph, Words()), TOPICS)([text])
    assert choice.truncated is truncated


def test_prompts_that_wait_are_read_together():
    batches = []

    def choose(prompts):
        batches.append(list(prompts))
        return [Choice(prompt, prompt, 1.0, False) for prompt in prompts]

    async def play():
        together = Together(choose, most=4)
        found = await asyncio.gather(*(together(str(n)) for n in range(9)))
        await together.close()
        return [choice.adapter for choice in found]

    assert asyncio.run(play()) == [str(n) for n in range(9)]
    assert list(map(len, batches)) == [4, 4, 1]


def test_who_leaves_is_not_read_and_who_fails_is_told():
    read = []

    def choose(prompts):
        read.extend(prompts)
        if "bad" in prompts:
            raise ValueError("bad")
        return [Choice(prompt, prompt, 1.0, False) for prompt in prompts]

    async def play():
        together = Together(choose, most=1)
        asking = [asyncio.create_task(together(text)) for text in ("bad", "gone", "good")]
        await asyncio.sleep(0)
        asking[1].cancel()
        return await asyncio.gather(*asking, return_exceptions=True)

    bad, gone, good = asyncio.run(play())
    assert isinstance(bad, ValueError)
    assert isinstance(gone, asyncio.CancelledError)
    assert good.adapter == "good"
    assert read == ["bad", "good"]
