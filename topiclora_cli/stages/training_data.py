"""A recipe's training examples, as every stage reads them: without what the evaluation asks and what no topic knows."""

from collections.abc import Callable, Sequence
from functools import lru_cache

from transformers import PreTrainedTokenizerBase

from topiclora_cli.data import Data, Encoded, Row, encode_rows, load_data, load_rows
from topiclora_cli.data.clean import Contamination
from topiclora_cli.data.encode import encode_every, fitting
from topiclora_cli.data.questions import Question, load_questions
from topiclora_cli.data.reading import Reader
from topiclora_cli.data.source_report import source_reports
from topiclora_cli.data.stream import ExampleStream
from topiclora_cli.errors import TopicLoraError, nearest
from topiclora_cli.evaluation.choosing import read_samples, read_settings
from topiclora_cli.evaluation.harness import QUESTIONS, SEEDS, EvalRequest, evaluation_questions
from topiclora_cli.models.precision import use_bfloat16
from topiclora_cli.recipe import Recipe
from topiclora_cli.recipe.data import EMBEDDED
from topiclora_cli.runs.held import held
from topiclora_cli.runs.results.training import SourceReport
from topiclora_cli.topics.levels import at_groups
from topiclora_cli.topics.prior import PriorBatch
from topiclora_cli.topics.taxonomy import Taxonomy, load_taxonomy


def training_data(recipe: Recipe) -> Data:
    """The recipe's examples; of a stream, the first few."""
    return load_data(recipe.data, seed=recipe.seed, known_topics=_known_topics(recipe), contaminated=_overlap(recipe))


def training_stream(
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerBase,
    priors: Callable[[Sequence[str]], PriorBatch] | None,
) -> ExampleStream:
    """The recipe's examples as they are needed; `priors` makes those of prompts."""
    reader = Reader(seed=recipe.seed, known_topics=_known_topics(recipe), contaminated=_overlap(recipe), streaming=True)
    return ExampleStream(recipe.data, reader, tokenizer, priors)


def rows_to_measure_on(recipe: Recipe, enough: int) -> tuple[list[Row], bool]:
    """Examples to measure on, and whether they were kept out of training: those of data.validation, else the families'
    validation split, `enough` of each and at least that many in all, else the training examples themselves.
    """
    data = recipe.data
    if data.validation is None and data.source == EMBEDDED:
        few = data.model_copy(update={"per_family": max(1, enough)})
        return load_rows(few, seed=recipe.seed, split="validation"), True
    examples = training_data(recipe)
    return (examples.validation, True) if examples.validation else (examples.train, False)


def eval_request(recipe: Recipe) -> EvalRequest:
    """What the recipe asks of lm-eval; raises TopicLoraError for questions of its own that cannot be read."""
    section = recipe.eval
    return EvalRequest(
        tasks=section.tasks,
        limit=section.limit,
        samples=read_samples(section.samples) if section.samples is not None else {},
        num_fewshot=section.num_fewshot,
        batch_size=section.batch_size,
        include_path=section.include_path,
        bfloat16=use_bfloat16(recipe.train.precision),
        system_instruction=section.system_instruction,
        chat_template=section.chat_template,
        multiturn=section.fewshot_as_multiturn,
        gen_kwargs=read_settings(section.gen_kwargs, key="eval.gen_kwargs"),
        seeds=tuple(section.seed) if isinstance(section.seed, list) else (section.seed,) * len(SEEDS),
        metrics=section.metrics,
        predict_only=section.predict_only,
        backend=section.backend,
        backend_args=read_settings(section.backend_args, key="eval.backend_args"),
        unsafe_code=section.unsafe_code,
        questions=own_questions(recipe),
        datasets_dir=section.datasets_dir,
    )


def own_questions(recipe: Recipe) -> tuple[Question, ...]:
    """The recipe's own questions where its tasks name them."""
    if not any(task.startswith(QUESTIONS) for task in recipe.eval.tasks):
        return ()
    if recipe.eval.questions is None:
        raise TopicLoraError(
            f"eval.tasks names {QUESTIONS}, and nothing says which.", "Set eval.questions.source, a file of them."
        )
    return load_questions(recipe.data, recipe.eval.questions)


def encode(recipe: Recipe, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row]) -> list[Encoded]:
    """Token ids of examples as the recipe wants them; raises TopicLoraError when nothing fits."""
    data = recipe.data
    return encode_rows(rows, tokenizer, max_length=data.max_length, chat_template=data.chat_template)


def encode_data(
    recipe: Recipe, tokenizer: PreTrainedTokenizerBase, data: Data
) -> tuple[list[Encoded], list[SourceReport]]:
    """Token ids of what is trained on, and what became of each source; raises TopicLoraError when nothing fits."""
    section = recipe.data
    key = (recipe.model.model_dump_json(), section.chat_template, data.train)
    every = held("tokens", key, lambda: encode_every(data.train, tokenizer, chat_template=section.chat_template))
    reports = source_reports(data, every, max_length=section.max_length)
    return fitting(every, section.max_length), reports


def named_taxonomy(recipe: Recipe) -> Taxonomy:
    """The taxonomy that the recipe names, of a package or a file; an induced one has no name."""
    graph = recipe.graph
    taxonomy = load_taxonomy(graph.taxonomy, min_tasks=graph.min_tasks, exclude_tasks=graph.exclude_tasks)
    return at_groups(taxonomy) if graph.level == "groups" else taxonomy


def refuse_unknown_topics(rows: Sequence[Row], known: Sequence[str]) -> None:
    """Raises TopicLoraError where an example carries a topic that is not among the `known`."""
    if unknown := {tag for row in rows for tag in row.topics} - set(known):
        name = min(unknown)
        raise TopicLoraError(
            f"data.topics has a topic {name!r} that is not in the graph.",
            f"{nearest(name, known)} Or leave such topics out (unknown_topics: drop), or name a graph.taxonomy with "
            "it, if it came by --add-topic.",
        )


def _known_topics(recipe: Recipe) -> set[str] | None:
    """The graph's topics where some source leaves out all others."""
    graph = recipe.graph
    if graph.taxonomy == "induced" or all(source.unknown_topics == "error" for source in recipe.data.all_sources):
        return None
    return set(named_taxonomy(recipe).tags)


def _overlap(recipe: Recipe) -> Contamination | None:
    if not recipe.data.decontaminate:
        return None
    section, asked = recipe.eval, own_questions(recipe)
    return _contamination(tuple(section.tasks), section.include_path, section.datasets_dir, asked, recipe.data.ngram)


@lru_cache(maxsize=1)
def _contamination(
    tasks: tuple[str, ...],
    include_path: str | None,
    datasets_dir: str | None,
    questions: tuple[Question, ...],
    ngram: int,
) -> Contamination:
    # A command reads the data several times; lm-eval's tasks take many seconds each time.
    request = EvalRequest(tasks=tasks, include_path=include_path, datasets_dir=datasets_dir, questions=questions)
    return Contamination(evaluation_questions(request), ngram)
