"""What changes of the prompts do to a model's answers and to its routing, beside another run's model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np
import torch
from torch import Tensor

from topiclora_cli.data import Encoded, Row
from topiclora_cli.evaluation.asking import Answered, Asked, answer, pose
from topiclora_cli.evaluation.harness import EvalRequest
from topiclora_cli.evaluation.loading import Tasks
from topiclora_cli.evaluation.probes.apply import TWO_TOPICS, joined_with, probed
from topiclora_cli.evaluation.routers.drops import changes, mean_change
from topiclora_cli.evaluation.routers.joined import joined_routing
from topiclora_cli.evaluation.routers.measures import divergence
from topiclora_cli.evaluation.routers.observed import Observed, observe
from topiclora_cli.runs.progress import Progress, tracked
from topiclora_cli.runs.results.routing import MEASURES, BeforeAfter, Probed, ProbeStudy
from topiclora_cli.stages.inputs import make_batches
from topiclora_cli.stages.opened import Opened
from topiclora_cli.training.attach import without_adapter


@dataclass(frozen=True)
class _Posed:
    """A probe's questions, and their places among all."""

    probe: str
    questions: Sequence[Asked]
    places: Sequence[int]


def probe_prompts(
    opened: Opened,
    tasks: Tasks,
    request: EvalRequest,
    progress: Progress,
    probes: Sequence[str],
    *,
    limit: int,
    against: tuple[str, Opened] | None = None,
    alike: bool = False,
) -> ProbeStudy:
    """Ask `limit` questions of each task as they are and under every probe; against: another run's name and model.

    alike: go by topics that are the same for every model, so that all are asked the same.
    """
    questions = pose(tasks, request, opened.scorer(request), limit=limit)
    topics, seed = opened.topics(questions, alike=alike), opened.recipe.seed
    posed, left_out = [], []
    for probe in dict.fromkeys(probes):
        found = probed(questions, topics, probe, seed=seed)
        places = [at for at, each in enumerate(found) if each is not None]
        if places:
            posed.append(_Posed(probe, [each for each in found if each is not None], places))
        else:
            left_out.append(f"{probe} applies to none of the questions.")
    own = _answers(opened, tasks, request, progress, questions, posed, "questions, probed")
    other = None
    if against is not None:
        name, model = against
        other = _answers(model, tasks, request, progress, questions, posed, f"questions, probed, {name}")
    plain = _observed(opened, questions, progress, "unprobed")
    rows = []
    for at, each in enumerate(posed):
        row = _row(each, own[0], own[at + 1], None if other is None else (other[0], other[at + 1]))
        after = _observed(opened, each.questions, progress, each.probe)
        row = _moved(row, plain, after, each.places)
        if each.probe == TWO_TOPICS and plain is not None and after is not None:
            company = joined_with(questions, topics, seed=seed)
            shown = [first for place in each.places if (first := company[place]) is not None]
            priors = _priors(opened, questions, each.questions)
            row = replace(row, joined=joined_routing(plain.gates, after.gates, each.places, shown, priors))
        rows.append(row)
    between = _between(plain)
    return ProbeStudy(
        probes=rows,
        questions=len(questions),
        seed=seed,
        against=None if against is None else against[0],
        between=between[0] if between else None,
        between_last=between[1] if between else None,
        left_out=left_out,
    )


def _answers(
    opened: Opened,
    tasks: Tasks,
    request: EvalRequest,
    progress: Progress,
    questions: Sequence[Asked],
    posed: Sequence[_Posed],
    label: str,
) -> list[Answered]:
    """What the questions as they are come to, and then every probe's."""
    lm = opened.scorer(request)
    total = len(questions) + sum(len(each.questions) for each in posed)
    with progress.track(label, total) as advance:
        return [
            answer(lm, tasks, each, request, advance=advance) for each in (questions, *(p.questions for p in posed))
        ]


def _row(posed: _Posed, plain: Answered, after: Answered, other: tuple[Answered, Answered] | None) -> Probed:
    before = _some(plain, posed.places)
    row = Probed(posed.probe, len(posed.places), changes(before, after), by_question=_by_question(before, after))
    if other is None:
        return row
    first, second = _some(other[0], posed.places), other[1]
    more = {}
    for measure in MEASURES:
        differences = getattr(after, measure) - getattr(before, measure)
        differences = differences - (getattr(second, measure) - getattr(first, measure))
        if (known := ~np.isnan(differences)).any():
            more[measure] = mean_change(differences[known])
    return replace(row, against=changes(first, second), more=more)


def _by_question(before: Answered, after: Answered) -> dict[str, BeforeAfter]:
    found = {}
    for measure in MEASURES:
        one, other = getattr(before, measure), getattr(after, measure)
        if (known := ~np.isnan(one) & ~np.isnan(other)).any():
            found[measure] = BeforeAfter(one[known].tolist(), other[known].tolist())
    return found


def _some(answered: Answered, places: Sequence[int]) -> Answered:
    return Answered(**{measure: getattr(answered, measure)[list(places)] for measure in MEASURES})


def _observed(opened: Opened, questions: Sequence[Asked], progress: Progress, label: str) -> Observed | None:
    """Gates of the questions' prompts, None of a model without any."""
    tokenizer, longest = opened.base.tokenizer, getattr(opened.base.model.config, "max_position_embeddings", None)
    encoded = []
    for question in questions:
        ids = tokenizer(question.prompt)["input_ids"]
        ids = ids[-longest:] if longest else ids
        encoded.append(Encoded(Row(question.prompt, ""), ids, len(ids)))
    batches = tracked(progress, f"gates, {label}", make_batches(opened.base, encoded, tokens="prompt"))
    found = observe(opened.model, batches, bfloat16=opened.bfloat16)
    return found if found.gates else None


def _moved(row: Probed, plain: Observed | None, after: Observed | None, places: Sequence[int]) -> Probed:
    """The row with how far a probe moves the routing."""
    if plain is None or after is None:
        return row
    rows = torch.tensor(list(places))
    means, lasts = (
        mean_change(_apart({name: gates[rows] for name, gates in one.items()}, other).numpy())
        for one, other in ((plain.gates, after.gates), (plain.last, after.last))
    )
    return replace(row, moved=means, moved_last=lasts)


def _priors(opened: Opened, *asked: Sequence[Asked]) -> tuple[Tensor, ...] | None:
    """The priors (n, E) of each list of questions; None without a graph."""
    prior = opened.prior()
    if prior is None:
        return None
    with without_adapter(opened.model):
        return tuple(prior([question.prompt for question in questions]).prior for questions in asked)


def _apart(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> Tensor:
    """Divergence of each example's gates, a mean over the modules: (N,)."""
    return torch.stack([divergence(gates, other[name]) for name, gates in one.items()]).mean(0).double()


def _between(plain: Observed | None) -> tuple[float, float] | None:
    """How far each question's prompt is from the one half of all questions further on."""
    if plain is None:
        return None
    found = []
    for gates in (plain.gates, plain.last):
        rolled = {name: each.roll(len(each) // 2, 0) for name, each in gates.items()}
        found.append(fmean(_apart(gates, rolled).tolist()))
    return found[0], found[1]
