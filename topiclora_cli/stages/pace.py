"""How much of a recipe fits into some minutes on this machine: a few steps are timed, and sizes chosen by them.

The whole chain is meant: topic graph, priors, training, evaluation of base and tuned model, and export. What is not
timed is counted in steps, whose cost goes with that of the forward passes that all stages are made of.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from topiclora_cli.data.families import FAMILIES
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.evaluation.loading import load_tasks
from topiclora_cli.models.base import base_source
from topiclora_cli.recipe import Recipe
from topiclora_cli.recipe.data import EMBEDDED
from topiclora_cli.runs.progress import Advance, LoggedProgress, Progress
from topiclora_cli.stages.inputs import make_text_encoder, open_base
from topiclora_cli.stages.plan import measure_steps
from topiclora_cli.stages.training_data import encode, eval_request, training_data
from topiclora_cli.training.arguments import count_steps, per_step

PROMPTS = 32  # timed for the text encoder, after a first few that warm it up
STEPS = 4  # the first of which warms up
TEXTS = 250  # of a packaged taxonomy, read beside the prompts
# Measured in processor time beside the steps of the recipe quickstart.
EXAMPLES = 16
GRAPH = 6.0  # steps that fits, comparisons and drawings take
HARNESS = 2.0  # steps that lm-eval takes to be loaded
QUESTION = 1 / 8  # steps that a question takes, put to base and tuned model
WATCHED = 1 / 33  # steps that an example takes whose routing is looked at
ROUTED = 128  # examples that the evaluation looks at
EVALUATION = 0.15  # of the time that is left, unless all questions take less
# On the recipe quickstart 12 steps brought nothing that a score shows, 40 brought 7 points.
FEWEST_STEPS, FEWEST_QUESTIONS = 24, 4
SPARE = 0.98  # of the time is planned


@dataclass(frozen=True)
class Pace:
    """Seconds that this machine takes to open the base, to read a prompt for its topics, and for an optimizer step."""

    load: float
    prompt: float
    step: float


@dataclass(frozen=True)
class Fit:
    """Steps and questions of each task that fit, and the seconds that each stage is expected to take with them."""

    steps: int
    questions: int
    seconds: Mapping[str, float]


def measure_pace(recipe: Recipe, progress: Progress) -> Pace:
    """Open the base, read some prompts and take a few real steps, in a folder that is gone afterwards.

    Raises TopicLoraError for bad data or targets, as the training itself does.
    """
    # What is made of a package's weights, or of a dense base, is made once.
    base_source(recipe.model.name, recipe.model.upcycle, revision=recipe.model.revision)
    started = time.monotonic()
    base = open_base(recipe)
    load = time.monotonic() - started
    rows = training_data(recipe).train[: max(PROMPTS, STEPS * per_step(recipe))]
    prompt = 0.0
    if recipe.needs_graph:
        encoder = make_text_encoder(recipe, base)
        encoder.encode([row.prompt for row in rows[:PROMPTS:8]])
        started = time.monotonic()
        encoder.encode([row.prompt for row in rows[:PROMPTS]])
        prompt = (time.monotonic() - started) / len(rows[:PROMPTS])
    encoded = encode(recipe, base.tokenizer, rows)
    with progress.track("timing steps", STEPS) as advance:
        measured = measure_steps(recipe, encoded, _Steps(advance), base, steps=STEPS)
    return Pace(load, prompt, measured.step_seconds)


class _Steps(LoggedProgress):
    """Moves the bar of the timing where a training would show its own."""

    def __init__(self, advance: Advance) -> None:
        self._advance = advance

    @contextmanager
    def track(self, label: str, total: int, done: int = 0) -> Iterator[Advance]:
        """The bar of the timing, for a part of it."""
        yield self._advance


def choose_sizes(recipe: Recipe, pace: Pace, seconds: float, *, spent: float = 0.0, insist: bool = True) -> Fit:
    """The most steps and questions that fit into the seconds of which so many are spent, up to the recipe's own.

    Where not even the fewest do, raises TopicLoraError saying how many minutes would; or, unless somebody insists on
    the time, takes the fewest.
    """
    tasks = len(load_tasks(eval_request(recipe)).tasks)
    batch = per_step(recipe)
    wanted = recipe.eval.limit if isinstance(recipe.eval.limit, int) else 10**6
    fixed = _fixed(recipe, pace)
    step = pace.step + pace.prompt * batch
    question = QUESTION * _unit(recipe, pace) * tasks
    left = SPARE * (seconds - spent) - sum(fixed.values())
    questions = min(wanted, max(FEWEST_QUESTIONS, int(EVALUATION * left / question)))
    most = count_steps(recipe, len(training_data(recipe).train))
    steps = min(most, int((left - questions * question) / step))
    if steps < min(most, FEWEST_STEPS) and not insist:
        steps, questions = min(most, FEWEST_STEPS), min(wanted, FEWEST_QUESTIONS)
    elif steps < min(most, FEWEST_STEPS):
        least = spent + (sum(fixed.values()) + FEWEST_QUESTIONS * question + FEWEST_STEPS * step) / SPARE
        raise TopicLoraError(
            f"{seconds / 60:.3g} minutes are too few to train anything on this machine, where a step takes "
            f"{pace.step:.1f} s.",
            f"Give it more, --minutes {-(-least // 60):.0f} (make quickstart MINUTES={-(-least // 60):.0f}); without "
            "any it takes the fewest steps.",
        )
    if steps == most:
        # What the training leaves goes to the questions.
        questions = min(wanted, max(questions, int((left - steps * step) / question)))
    expected = {
        **fixed,
        "training": fixed["training"] + steps * step,
        "evaluation": fixed["evaluation"] + questions * question,
    }
    return Fit(steps, questions, expected)


def _fixed(recipe: Recipe, pace: Pace) -> dict[str, float]:
    """Seconds that stages take whatever the sizes are."""
    opened, unit = pace.load, _unit(recipe, pace)
    fixed = {"training": opened, "evaluation": 2 * opened + HARNESS * unit}
    if recipe.needs_graph:
        fixed = {"graph": opened + GRAPH * unit + (recipe.graph.tagged_prompts + TEXTS) * pace.prompt, **fixed}
        fixed["evaluation"] += ROUTED * WATCHED * unit
    if recipe.adapter.exports:
        # Gates, answers of the routed model and of the base, and each format read back.
        formats = len(recipe.merge.formats)
        fixed["export"] = (2 + formats) * opened + (3 + formats) * recipe.merge.calibration * WATCHED * unit
    return fixed


def _unit(recipe: Recipe, pace: Pace) -> float:
    """The seconds of a step of EXAMPLES examples."""
    return pace.step * EXAMPLES / per_step(recipe)


def sizes_of(recipe: Recipe, fit: Fit) -> dict[str, int]:
    """The keys that give a recipe these sizes."""
    sizes = {"eval.limit": fit.questions}
    if [source.source for source in recipe.data.all_sources] == [EMBEDDED] and not recipe.train.max_steps:
        sizes["data.per_family"] = max(1, fit.steps * per_step(recipe) // len(FAMILIES))
    else:
        sizes["train.max_steps"] = fit.steps
        if not recipe.data.streaming:
            sizes["data.limit"] = fit.steps * per_step(recipe)
    return sizes
