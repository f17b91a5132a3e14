"""What shows that an export is what it says: read back from disk, beside the routed model and the base."""

import gc
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from topiclora_cli.data import Encoded
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.merging.collapse import PlainLora
from topiclora_cli.merging.gap import Gap, Reference, Sums
from topiclora_cli.merging.gates import Gates
from topiclora_cli.merging.ranks import at_rank
from topiclora_cli.models.base import BaseModel
from topiclora_cli.models.logits import selects_logits
from topiclora_cli.models.precision import use_bfloat16
from topiclora_cli.recipe import Recipe
from topiclora_cli.runs.progress import Progress, tracked
from topiclora_cli.runs.results.export import BASE, EXPORT, ROUTED, Export, GapPart
from topiclora_cli.stages.bundle import topic_map
from topiclora_cli.stages.experts import experts_read_back
from topiclora_cli.stages.exports import Written, read_back
from topiclora_cli.stages.gates import MEAN, FixedGates
from topiclora_cli.stages.inputs import make_batches, open_base, open_encoder
from topiclora_cli.stages.samples import Measured, by_length, examples_to_measure_on
from topiclora_cli.topics.adapters import adapter_for
from topiclora_cli.topics.prior import TopicPrior
from topiclora_cli.topics.store import TopicGraph

if TYPE_CHECKING:  # lm-eval is not loaded where no task is scored
    from topiclora_cli.stages.task_proof import Places, TaskProof

OF_NO_GATES = "routed"  # in the place of gates, of an export that fixes none


class Proof:
    """The examples that an export is measured on, the routed model's answers to them, and the base's gap; asked: the
    gates, None of an export that routes."""

    def __init__(self, recipe: Recipe, asked: Gates | None, graph: Path | None, progress: Progress) -> None:
        self._recipe, self._progress = recipe, progress
        self._gates = asked.text if asked else OF_NO_GATES
        self._topic, self._chooses = (asked.topic, asked.kind == "all") if asked else (None, False)
        self._graph = TopicGraph.load(graph) if graph is not None and self._chooses else None
        self._folder_of_graph = graph
        self._answers = TemporaryDirectory()
        self._tasks = _task_proof(recipe, progress) if recipe.merge.tasks else None
        self._tokenizer: PreTrainedTokenizerBase
        self._relevance: Tensor | None = None
        self._measured: Measured
        self._reference: Reference
        self._base: Sums
        self._routed: Sums

    def prepare(self) -> BaseModel:
        """Choose the examples; the base comes back before any adapter is on it, as the graph's encoder may read it.

        Raises TopicLoraError where each topic is to have a LoRA and no topic graph could choose among them.
        """
        recipe, base = self._recipe, open_base(self._recipe)
        limit, topic = recipe.merge.calibration, self._topic
        measured = examples_to_measure_on(recipe, base, limit, self._folder_of_graph, topic=topic)
        self._measured = replace(measured, examples=by_length(measured.examples))
        if self._chooses:
            if self._graph is None:
                raise TopicLoraError("The run has no topic graph to choose an adapter by.", "Use --gates topic:NAME.")
            prior = TopicPrior(self._graph, open_encoder(recipe, base))
            self._relevance = prior([example.row.prompt for example in self._examples]).relevance
        selects = selects_logits(base.model, bfloat16=use_bfloat16(recipe.train.precision))
        return replace(base, selects_logits=selects)

    def observe(self, base: BaseModel, model: PeftModel, folder: Path) -> None:
        """Keep the routed model's answers, and measure the base beside them; lm-eval's files go to `folder`."""
        batches = make_batches(base, self._examples)
        bfloat16 = use_bfloat16(self._recipe.train.precision)
        self._reference = Reference(batches, Path(self._answers.name), bfloat16=bfloat16)
        self._reference.write(model, tracked(self._progress, "answers of the routed model", batches))
        self._routed = self._reference.routed
        with model.disable_adapter():
            self._base = self._reference.compare(model)
        self._tokenizer, self._eval_folder = base.tokenizer, folder
        if self._tasks is not None:
            with model.disable_adapter():
                self._tasks.score(BASE, model, base.tokenizer, folder)
            self._tasks.score(ROUTED, model, base.tokenizer, folder)

    def export(self, written: Sequence[Written], found: FixedGates) -> Export:
        """What is on record of an export, every part of it read back."""
        parts = [_part(BASE, self._base.gap())]
        if found.topics:
            overall, of_adapters = self._chosen(written, found)
            parts += of_adapters
        else:
            sums = {}
            for each in tracked(self._progress, "export read back", written):
                model = _loaded(self._recipe, each)
                sums[each.name] = self._reference.compare(model)
                if self._tasks is not None and len(sums) == 1:
                    self._tasks.score(EXPORT, model, self._tokenizer, self._eval_folder)
                del model
                gc.collect()
            parts += [_part(name, each.gap()) for name, each in sums.items()]
            overall = next(iter(sums.values()))
        gap = overall.gap()
        return Export(
            self._gates,
            gap.kl,
            gap.agreement,
            gap.tokens,
            on=self._measured.kind,
            measured=len(self._examples),
            calibration=found.calibration,
            perplexity=gap.perplexity,
            routed_perplexity=self._routed.gap().perplexity,
            models=tuple(parts),
            topics=self._by_topic(overall),
            tasks=self._tasks.gaps() if self._tasks is not None else (),
        )

    def by_rank(self, plain: PlainLora) -> tuple[GapPart, ...]:
        """The gap of a LoRA as it is, and cut to every power of two below that from 4 on."""
        ranks = [2**n for n in range(2, 16) if 2**n < plain.rank]
        lora, parts = plain.cut(plain.rank, None).onto(open_base(self._recipe).model), []
        for rank in tracked(self._progress, "gap by rank", [*ranks, plain.rank]):
            with at_rank(lora, rank):
                parts.append(_part(str(rank), self._reference.compare(lora).gap()))
        return tuple(parts)

    def refuse_beyond(self, export: Export) -> None:
        """Raises TopicLoraError where some part of the export is further from the routed model than merge.max_gap, or
        answers with no numbers at all."""
        most = self._recipe.merge.max_gap
        read = [part for part in export.models if part.name != BASE and part.name != MEAN]
        if broken := next((part for part in export.models if part.name != BASE and not math.isfinite(part.kl)), None):
            raise TopicLoraError(
                f"The export {broken.name} answers with NaN beside the routed model.",
                "Nothing was kept. Try another --dtype, and whether the run itself answers: topiclora chat.",
            )
        worst = max(read, key=lambda part: part.kl, default=None)
        if most is not None and worst is not None and worst.kl > most:
            raise TopicLoraError(
                f"The export {worst.name} is {worst.kl:.3g} nats per answer token from the routed model, beyond "
                f"--max-gap {most:g}.",
                "Nothing was kept. Try --gates learned or topic:all, a higher --rank, or a wider --max-gap.",
            )

    @property
    def _examples(self) -> Sequence[Encoded]:
        return self._measured.examples

    def _chosen(self, written: Sequence[Written], found: FixedGates) -> tuple[Sums, list[GapPart]]:
        """Every example answered by the LoRA that the prior chooses for it: all of them, and each LoRA's own; the mean
        gates answer all."""
        assert self._graph is not None
        assert self._relevance is not None
        topics = topic_map(self._graph, found)
        choice = adapter_for(self._graph, self._relevance, topics)
        base, overall, parts = open_base(self._recipe), None, []
        places = self._places(base, self._graph, topics)
        for each in tracked(self._progress, "exports read back", sorted(written, key=lambda each: each.name != MEAN)):
            own = [place for place, name in enumerate(choice) if name == each.name]
            if each.name != MEAN and not own and each.name not in places:
                continue
            model = read_back(self._recipe, each, base)
            sums = self._reference.compare(model, None if each.name == MEAN else own)
            if self._tasks is not None and each.name in places:
                asked = places[each.name]
                self._tasks.score(EXPORT, model, self._tokenizer, self._eval_folder / each.name, places=asked)
            base = replace(base, model=model.unload())  # type: ignore[operator]
            overall = sums if overall is None else overall.taken(sums, own)
            if each.name == MEAN or own:
                parts.append(_part(each.name, sums.gap(None if each.name == MEAN else own)))
        assert overall is not None
        return overall, parts

    def _places(self, base: BaseModel, graph: TopicGraph, topics: Mapping[str, str]) -> "Mapping[str, Places]":
        """Which LoRA answers which questions of the tasks."""
        if self._tasks is None:
            return {}
        prior = TopicPrior(graph, open_encoder(self._recipe, base))
        return self._tasks.places(lambda prompts: adapter_for(graph, prior(prompts).relevance, topics))

    def _by_topic(self, sums: Sums) -> tuple[GapPart, ...]:
        """The export by topic of the examples, the largest KL first."""
        topics = sorted({topic for example in self._examples for topic in example.row.topics})
        places = {t: [n for n, example in enumerate(self._examples) if t in example.row.topics] for t in topics}
        parts = [_part(topic, sums.gap(own)) for topic, own in places.items()]
        return tuple(sorted(parts, key=lambda part: -part.kl))


def _task_proof(recipe: Recipe, progress: Progress) -> "TaskProof":
    from topiclora_cli.stages.task_proof import TaskProof

    return TaskProof(recipe, progress)


def _loaded(recipe: Recipe, each: Written) -> nn.Module:
    return experts_read_back(each, open_base(recipe)) if each.format == "experts" else read_back(recipe, each)


def _part(name: str, gap: Gap) -> GapPart:
    return GapPart(name, gap.kl, gap.agreement, gap.perplexity, gap.tokens)
