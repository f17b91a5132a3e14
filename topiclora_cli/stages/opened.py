"""A run's model ready to be asked questions under other conditions, and what its topic graph says of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftModel

from topiclora_cli.evaluation.asking import Asked
from topiclora_cli.evaluation.harness import EvalRequest
from topiclora_cli.models.base import BaseModel
from topiclora_cli.models.precision import use_bfloat16
from topiclora_cli.recipe import Recipe
from topiclora_cli.stages.inputs import open_encoder
from topiclora_cli.topics.prior import TopicPrior
from topiclora_cli.topics.store import TopicGraph
from topiclora_cli.training.attach import without_adapter


@dataclass(frozen=True)
class Opened:
    """A tuned model ready to be asked, with what its topic graph says of prompts."""

    recipe: Recipe
    base: BaseModel
    model: PeftModel
    graph: TopicGraph | None

    @property
    def bfloat16(self) -> bool:
        """Whether it computes in bfloat16."""
        return use_bfloat16(self.recipe.train.precision)

    def scorer(self, request: EvalRequest) -> Any:
        """lm-eval's view of the model."""
        from topiclora_cli.evaluation.rows import RowsLM

        dtype = "bfloat16" if request.bfloat16 else None
        return RowsLM(
            pretrained=self.model,
            tokenizer=self.base.tokenizer,
            batch_size=request.batch_size,
            mixed_precision_dtype=dtype,
        )

    def prior(self) -> TopicPrior | None:
        """The graph's prior, whose encoder may read the base."""
        return None if self.graph is None else TopicPrior(self.graph, open_encoder(self.recipe, self.base))

    def topics(self, questions: Sequence[Asked], *, alike: bool = False) -> list[tuple[str, ...]]:
        """Each question's topics: its data's own, else the one the graph finds it most about, else its task.

        alike: not to ask the graph, so that they are the same for every model.
        """
        own = [_tagged(question) for question in questions]
        if all(own) or self.graph is None or alike:
            return [tags or (question.task,) for tags, question in zip(own, questions, strict=True)]
        prior = self.prior()
        assert prior is not None
        with without_adapter(self.model):
            best = prior([question.prompt for question in questions]).relevance.argmax(1).tolist()
        return [tags or (self.graph.topics[topic],) for tags, topic in zip(own, best, strict=True)]


def open_for_study(recipe: Recipe, base: BaseModel, model: PeftModel, folder: Path | None) -> Opened:
    """A tuned model with the graph that it was trained with, if any."""
    return Opened(recipe, base, model, TopicGraph.load(folder) if folder else None)


def _tagged(question: Asked) -> tuple[str, ...]:
    found = question.doc.get("topics") or ()
    return (found,) if isinstance(found, str) else tuple(map(str, found))
