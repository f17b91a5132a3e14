"""Training examples read, cleaned, mixed, tokenised and given their priors as they are needed.

For sets larger than memory. There is no end: a source that runs out starts over, in another order, until the trainer
has taken its steps.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import count, islice
from typing import Any

from torch.utils.data import IterableDataset
from transformers import PreTrainedTokenizerBase

from topiclora_cli.data.encode import encode_every
from topiclora_cli.data.files import file_states
from topiclora_cli.data.load import position, source_key
from topiclora_cli.data.reading import Reader
from topiclora_cli.data.row import Row
from topiclora_cli.data.vocabulary import refuse_unknown_tokens
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe.data import DataSection
from topiclora_cli.runs.results.training import SourceCount
from topiclora_cli.topics.prior import PriorBatch

CHUNK = 256  # examples that are tokenised and given their priors together


class ExampleStream(IterableDataset):
    """Endless rows for the collator: input_ids, prompt_length, weights and, with `priors`, prior (E,) and confidence.

    priors: from prompts to their priors. `base_alone` makes the context in which they are computed: a text encoder that
    reads the base model must not see the adapter that has been put on it since. `embedded`: how many tokens the model
    knows, if they are to be checked.
    """

    def __init__(
        self,
        data: DataSection,
        reader: Reader,
        tokenizer: PreTrainedTokenizerBase,
        priors: Callable[[Sequence[str]], PriorBatch] | None,
    ) -> None:
        self.data, self.reader, self.tokenizer, self.priors = data, reader, tokenizer, priors
        self.base_alone: Callable[[], AbstractContextManager[Any]] = nullcontext
        self.embedded: int | None = None

    def __iter__(self) -> Iterator[dict[str, Any]]:
        rows = self._mixed()
        while True:
            every = encode_every(list(islice(rows, CHUNK)), self.tokenizer, chat_template=self.data.chat_template)
            examples = [example for example in every if len(example.input_ids) <= self.data.max_length]
            if self.embedded is not None:
                refuse_unknown_tokens([example.input_ids for example in examples], self.tokenizer, self.embedded)
            records: list[dict[str, Any]] = [
                {
                    "input_ids": example.input_ids,
                    "prompt_length": example.prompt_length,
                    "weights": example.token_weights(with_prompt=self.data.train_on_prompt),
                }
                for example in examples
            ]
            if self.priors is not None and examples:
                with self.base_alone():
                    batch = self.priors([example.row.prompt for example in examples])
                for record, prior, sure in zip(records, batch.prior.tolist(), batch.confidence.tolist(), strict=True):
                    record |= {"prior": prior, "confidence": sure}
            yield from records

    @property
    def weighs(self) -> bool:
        """Whether tokens may differ in weight: sources do, or are chats, whose messages may."""
        return any(source.loss_weight != 1 or source.reads_chats for source in self.data.all_sources)

    def files(self) -> list[tuple[str, int, int]]:
        """The local files of its sources: name, size and time of change."""
        return [state for section in self.data.all_sources for state in file_states(str(section.source))]

    def _mixed(self) -> Iterator[Row]:
        """Examples drawn by the sources' weights, without those kept out to measure on."""
        sources = [self._endless(number) for number in range(len(self.data.all_sources))]
        weights = [section.weight or 1.0 for section in self.data.all_sources]
        choose = random.Random(f"stream/{self.reader.seed}")
        while True:
            yield next(choose.choices(sources, weights)[0])

    def _endless(self, number: int) -> Iterator[Row]:
        section, key = self.data.all_sources[number], source_key(self.data, number)
        held_out = self.data.validation or 0.0
        for epoch in count():
            found = False
            for row in self.reader.read(section, number, key, SourceCount(section.label), epoch=epoch):
                if position(row.opening) > held_out:
                    found = True
                    yield row
            if not found:
                raise TopicLoraError(f"{key}.source {section.source!r} has no examples.", f"Check {key}.split.")
