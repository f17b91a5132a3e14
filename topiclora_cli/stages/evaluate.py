"""The stage that measures: base and tuned model by lm-evaluation-harness, and what the routers do with topics."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

from peft import PeftModel

from topiclora_cli.adapters.observe import observe_gates
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.evaluation.by_topic import asked_texts
from topiclora_cli.evaluation.copy_notes import copy_notes
from topiclora_cli.evaluation.kept import KeptScores
from topiclora_cli.evaluation.loading import load_tasks
from topiclora_cli.evaluation.results import EvalResults, by_question, summary
from topiclora_cli.evaluation.routing import routing_report
from topiclora_cli.evaluation.running import count_questions, score_tasks
from topiclora_cli.evaluation.subject import Loaded
from topiclora_cli.models.base import BaseModel
from topiclora_cli.models.precision import use_bfloat16
from topiclora_cli.recipe import Recipe
from topiclora_cli.runs.naming import BY_QUESTION, SUMMARY, named_folder
from topiclora_cli.runs.processes import in_first, process_index
from topiclora_cli.runs.progress import Progress, tracked
from topiclora_cli.runs.results.evaluation import EvalSummary, QuestionScores, RoutingReport
from topiclora_cli.runs.results.files import read_result, write_result
from topiclora_cli.runs.results.record import EvalFacts
from topiclora_cli.runs.run import RunDir
from topiclora_cli.stages.backend import through_backend
from topiclora_cli.stages.by_entropy import along_entropy, entropies_of, write_by_entropy
from topiclora_cli.stages.by_topic import experts_of, scores_by_topic, topics_of, write_by_topic
from topiclora_cli.stages.inputs import (
    adapter_folder,
    graph_folder,
    load_tuned,
    make_batches,
    open_base,
)
from topiclora_cli.stages.kept import kept_of_adapter, kept_of_base, loaded
from topiclora_cli.stages.request import asked_for
from topiclora_cli.stages.samples import examples_to_measure_on
from topiclora_cli.stages.stage import stage
from topiclora_cli.stages.training_data import eval_request


def try_tasks(recipe: Recipe) -> None:
    """Raise TopicLoraError where the recipe's tasks cannot be scored or lack a metric of `eval.metrics`."""
    load_tasks(eval_request(recipe))


def evaluate(
    recipe: Recipe,
    run: RunDir,
    progress: Progress,
    *,
    name: str | None = None,
    untrained: bool = False,
    reuse: bool | None = None,
    graphless: bool = False,
) -> EvalSummary:
    """Base and tuned model on the same questions, through lm-eval; plus routing by topic on the held-out split.

    untrained: score the base in the tuned model's place; the run needs no adapter then. The outcome lies in
    `eval/NAME`, named after the tasks unless told otherwise; no other one is touched. A task that fails is named in
    `failed`, and the others are scored; where the same request had scored it before, that outcome stays in its place.

    graphless: a run without a topic graph is scored without topics, as another's graph sorts its questions; else it is
    refused where `eval.by_topic` asks for them.

    reuse: take every score that was kept of the same model and questions (True), or none (False); None takes every one,
    but scores the tuned model anew where this very evaluation was finished before.
    """
    if not untrained:
        adapter_folder(recipe, run)  # before hours go into the base alone
    section, request = recipe.eval, eval_request(recipe)
    if section.backend != "hf" and not untrained:
        through_backend(recipe, lambda: loaded(open_base(recipe)), run.adapter)  # which says what it cannot load
    tasks = load_tasks(request)
    graph = graph_folder(run, progress)
    questions = asked_texts(tasks, request) if section.by_topic or section.by_entropy else {}
    topics = None
    if section.by_topic and not (graphless and graph is None):
        topics = topics_of(recipe, questions, graph)
    entropies = entropies_of(recipe, questions, graph) if section.by_entropy and graph is not None else None
    if section.by_entropy and graph is None:
        progress.say("eval.by_entropy goes by the run's topic graph, and the run has none.")
    asked = asked_for(recipe, run, "eval")
    default = ",".join(section.tasks)
    folder = in_first(lambda: named_folder(run.path / "eval", name, default=default, request=asked))
    ended = (folder / SUMMARY).exists()
    with stage(run, "eval", recipe, folder=folder) as running:
        open_once = cache(lambda: open_base(recipe))
        untouched = kept_of_base(recipe, reads=reuse is not False)

        def score(label: str, load: Callable[[], Loaded], kept: KeptScores) -> EvalResults:
            with progress.track(f"questions, {label}", count_questions(tasks, request)) as advance:
                return score_tasks(load, request, tasks, label=label, output_path=folder, kept=kept, advance=advance)

        of_base = through_backend(recipe, lambda: loaded(open_once()))
        base_results = score("base", of_base, untouched) if section.base else None
        model = None
        if untrained:
            tuned = score("base", of_base, untouched)
        else:
            if section.backend == "hf":
                _, model = load_tuned(recipe, run, open_once())
            reads = not ended if reuse is None else reuse
            kept = kept_of_adapter(recipe, run.adapter, run.path / "eval", reads=reads)
            of_adapter = through_backend(recipe, lambda: loaded(open_once(), model), run.adapter)
            tuned = score("tuned", of_adapter, kept)
        of_base_too = by_question(base_results) if base_results is not None else None
        answers = QuestionScores(by_question(tuned), of_base_too, entropies, topics)
        result = replace(summary(base_results, tuned, name=folder.name), notes=tuple(copy_notes(tasks)))
        if process_index() > 0:
            return result
        for task, why in result.failed.items():
            progress.say(f"Warning: {task} could not be scored: {why}")
        if (earlier := _of_more(result, folder)) is not None:
            progress.say(f"What was scored before stays as it is in {folder}.")
            running.result = _facts(earlier)
            return result
        write_result(folder / BY_QUESTION, answers)
        write_result(folder / SUMMARY, result)  # hours of scoring are not to hang on what follows
        if topics is not None:
            experts = experts_of(recipe, open_once(), model, questions, progress) if model is not None else None
            if by_topic := scores_by_topic(topics, experts, result, answers):
                result = replace(result, by_topic=by_topic)
                write_by_topic(folder, by_topic)
                write_result(folder / SUMMARY, result)
        if by_entropy := along_entropy(result, answers):
            result = replace(result, by_entropy=by_entropy)
            write_by_entropy(folder, by_entropy)
            write_result(folder / SUMMARY, result)
        if model is not None and (report := observe_routing(recipe, open_once(), model, graph, progress)):
            result = replace(result, routing=report)
            write_result(folder / SUMMARY, result)
        running.result = _facts(result)
    return result


def observe_routing(
    recipe: Recipe, base: BaseModel, model: PeftModel, graph: Path | None, progress: Progress, *, limit: int = 128
) -> RoutingReport | None:
    """Routing by topic on prompts with topics, held out where the recipe holds any out; None for a plain LoRA or data
    without topics."""
    measured = examples_to_measure_on(recipe, base, limit, graph)
    encoded = [e for e in measured.examples if e.row.topics]
    batches = tracked(progress, "routing by topic", make_batches(base, encoded, tokens="prompt"))
    gates = observe_gates(model, batches, bfloat16=use_bfloat16(recipe.train.precision))
    return routing_report(gates, [e.row.topics for e in encoded], on=measured.kind)


def _of_more(result: EvalSummary, folder: Path) -> EvalSummary | None:
    """What an earlier call has scored of the same request, where that is something that failed this time."""
    try:
        earlier = read_result(folder / SUMMARY, EvalSummary) if (folder / SUMMARY).exists() else None
    except TopicLoraError:
        return None
    scored = {task.task for task in earlier.tasks} if earlier else set()
    return earlier if scored & result.failed.keys() else None


def _facts(summary: EvalSummary) -> EvalFacts:
    mean, failed = summary.mean, ", ".join(summary.failed) or None
    if mean is None:
        return EvalFacts(summary.name, failed=failed)
    return EvalFacts(
        name=summary.name,
        base=mean.base,
        base_stderr=mean.base_stderr,
        tuned=mean.tuned,
        tuned_stderr=mean.tuned_stderr,
        delta=mean.delta,
        delta_stderr=mean.delta_stderr,
        failed=failed,
    )
