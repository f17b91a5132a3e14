"""What the routers of an evaluation's model do, and what it loses where they are interfered with."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from topiclora_cli.adapters.interference import (
    ByPrior,
    Interference,
    Shuffled,
    SwitchedOff,
    Uniform,
    interfered_routing,
)
from topiclora_cli.adapters.tuner import routers_of
from topiclora_cli.evaluation.asking import Answered, Asked, answer, pose
from topiclora_cli.evaluation.harness import EvalRequest
from topiclora_cli.evaluation.loading import Tasks
from topiclora_cli.evaluation.routers.along import Written, write_along
from topiclora_cli.evaluation.routers.drops import by_topic, changes, own_and_others, owner_by_topic
from topiclora_cli.evaluation.routers.layers import Layers, measure_layers
from topiclora_cli.evaluation.routers.observed import observe
from topiclora_cli.evaluation.routers.redundancy import redundancy
from topiclora_cli.evaluation.routing import mean_routing
from topiclora_cli.runs.progress import Progress, tracked
from topiclora_cli.runs.results.routing import Interfered, RoutingStudy, TokenGates
from topiclora_cli.stages.inputs import make_batches
from topiclora_cli.stages.opened import Opened
from topiclora_cli.stages.samples import examples_to_measure_on
from topiclora_cli.topics.prior import TopicPrior
from topiclora_cli.topics.store import TopicGraph
from topiclora_cli.training.attach import without_adapter

EXAMPLES, FOR_CKA = 128, 32  # examples to measure routing on, and of them those for the outputs of experts
TEXTS, MOST_WRITTEN = 4, 24  # texts to follow token by token, and what is written of each


@dataclass(frozen=True)
class Studied:
    """A study, and what it is made of: layers in full, the texts, and the questions with their topics."""

    study: RoutingStudy
    layers: Layers
    texts: Sequence[Written]


def study_routing(
    opened: Opened, tasks: Tasks, request: EvalRequest, progress: Progress, *, limit: int, graph: Path | None
) -> Studied | None:
    """Measure routing on held-out examples, and ask `limit` questions of each task under every interference.

    None for a model without routers of a choice.
    """
    routers = routers_of(opened.model)
    measured = examples_to_measure_on(opened.recipe, opened.base, EXAMPLES, graph)
    encoded = [e for e in measured.examples if e.row.topics] or measured.examples
    batches = make_batches(opened.base, encoded, tokens="prompt")
    observed = observe(opened.model, tracked(progress, "routing, token by token", batches), bfloat16=opened.bfloat16)
    if not observed.gates:
        return None
    few = make_batches(opened.base, encoded[:FOR_CKA], tokens="prompt")
    alike = redundancy(opened.model, tracked(progress, "experts' outputs", few), bfloat16=opened.bfloat16)
    prior = _prior_of_examples(opened, [e.row.prompt for e in encoded])
    layers = measure_layers(observed, alike, [e.row.topics or ("untagged",) for e in encoded], prior)
    left_out: list[str] = []
    lm = opened.scorer(request)
    questions = pose(tasks, request, lm, limit=limit)
    texts = _texts(opened, questions)
    interfered: list[Interfered] = []
    owners = "the topic graph" if opened.graph is not None else "the router's own gates by topic"
    if routers:
        topics = opened.topics(questions)
        assignment = layers.by_topic if opened.graph is None else _assignment(opened.graph)
        whose = [owner_by_topic(assignment, tags) for tags in topics]
        ways, left_out = _ways(opened, layers.experts)
        with progress.track("questions, interfered with", len(questions) * (len(ways) + 1)) as advance:
            ask = partial(answer, lm, tasks, questions, request, advance=lambda n, task: advance(n, task))
            before = ask()
            for name, expert, within in ways:
                with within(lm):
                    after = ask()
                interfered.append(_interfered(name, expert, topics, whose, before, after))
    else:
        left_out.append("Routing is the base model's own here, which is watched but not interfered with.")
    study = RoutingStudy(
        experts=layers.experts,
        examples=len(encoded),
        on=measured.kind,
        questions=len(questions) if routers else 0,
        layers=layers.layers,
        together=layers.together,
        cosine=layers.cosine,
        cka=layers.cka,
        texts=[_tokens(text) for text in texts],
        interfered=interfered,
        owners=owners,
        left_out=left_out,
    )
    return Studied(study, layers, texts)


Way = tuple[str, int | None, Callable[[Any], AbstractContextManager[Any]]]


def _ways(opened: Opened, experts: int) -> tuple[list[Way], list[str]]:
    """Every way of interfering as a block around the questions, and what cannot be done."""
    model = opened.model

    def block(how: Interference) -> Callable[[Any], AbstractContextManager[Any]]:
        return lambda lm: interfered_routing(model, how)

    ways: list[Way] = [(f"expert {e} off", e, block(SwitchedOff(frozenset({e})))) for e in range(experts)]
    ways += [("uniform", None, block(Uniform())), ("shuffled", None, block(Shuffled(opened.recipe.seed)))]
    sizes = {router.settings.num_experts for _, router in routers_of(model)}
    prior = opened.prior()
    if prior is None:
        return ways, ["Prior in the router's place: the run has no topic graph."]
    if sizes != {prior.graph.num_experts}:
        return ways, ["Prior in the router's place: its layers have other numbers of experts than the graph."]
    return [*ways, ("prior", None, lambda lm: _PriorInPlace(opened, prior, lm))], []


class _PriorInPlace(AbstractContextManager[None]):
    """Puts the prior of each row's prompt in the routers' place while questions are asked."""

    def __init__(self, opened: Opened, prior: TopicPrior, lm: Any) -> None:
        self._opened, self._prior, self._lm = opened, prior, lm
        self._known: dict[tuple[int, ...], Tensor] = {}

    def __enter__(self) -> None:
        self._lm.around = self._around

    def __exit__(self, *_: object) -> None:
        self._lm.around = lambda prompts: nullcontext()

    def _around(self, prompts: Sequence[tuple[int, ...]]) -> AbstractContextManager[Any]:
        if new := [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._known]:
            texts = self._opened.base.tokenizer.batch_decode([list(prompt) for prompt in new], skip_special_tokens=True)
            with without_adapter(self._opened.model):
                found = self._prior(texts).prior
            self._known |= dict(zip(new, found, strict=True))
        return interfered_routing(self._opened.model, ByPrior(torch.stack([self._known[p] for p in prompts])))


def _interfered(
    name: str,
    expert: int | None,
    topics: Sequence[Sequence[str]],
    owners: Sequence[int | None],
    before: Answered,
    after: Answered,
) -> Interfered:
    apart = None if expert is None else own_and_others(owners, expert, before, after, "answer_loss")
    own, others, difference = apart or (None, None, None)
    drops = by_topic(topics, before, after)
    return Interfered(name, changes(before, after), drops, expert, own, others, difference)


def _assignment(graph: TopicGraph) -> dict[str, Sequence[float]]:
    shares = graph.assignment.tolist()
    return {tag: shares[place] for tag, place in graph.place_of.items()}


def _prior_of_examples(opened: Opened, prompts: Sequence[str]) -> Tensor | None:
    prior = opened.prior()
    if prior is None:
        return None
    with without_adapter(opened.model):
        return prior(list(prompts)).prior


def _texts(opened: Opened, questions: Sequence[Asked]) -> list[Written]:
    """The first question of some tasks far apart in their order, each with what the model writes."""
    first = list({question.task: question for question in reversed(questions)}.values())[::-1]
    chosen = first[:: max(1, len(first) // TEXTS)][:TEXTS]
    tokenizer = opened.base.tokenizer
    return [
        write_along(
            opened.model,
            tokenizer,
            tokenizer(question.prompt)["input_ids"],
            most=MOST_WRITTEN,
            bfloat16=opened.bfloat16,
        )
        for question in chosen
    ]


def _tokens(text: Written) -> list[TokenGates]:
    mean = mean_routing(text.gates)
    if mean is None:
        return []
    rows = zip(text.tokens, mean.tolist(), strict=True)
    return [TokenGates(token, at >= text.prompt, gates) for at, (token, gates) in enumerate(rows)]
