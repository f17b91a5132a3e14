"""Tiny random models, a tiny tokenizer and a recipe over them: everything the fast tests need, made in a second."""

import gc
import os

# Before any import of a Hugging Face library: no test may reach for a hub.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TQDM_DISABLE"] = "1"
# The console takes its width when it is first imported, by whichever test comes first.
os.environ["COLUMNS"] = "200"

import importlib
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    OlmoeConfig,
    OlmoeForCausalLM,
    PreTrainedTokenizerFast,
)

from topiclora_cli.data.families import mixture
from topiclora_cli.runs.cache import cache_dir
from topiclora_cli.runs.run import RunDir
from topiclora_cli.topics.encoder import HashEncoder
from topiclora_cli.topics.fit import fit_topic_graph
from topiclora_cli.topics.settings import GraphSettings
from topiclora_cli.topics.taxonomy import Taxonomy, Topic, load_taxonomy

torch.set_num_threads(1)

# Copies of public data sets that lie beside a checkout; nothing of them is part of the project.
DATA = Path(os.environ.get("TOPICLORA_DATA", Path(__file__).parents[2] / "shared" / "data"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"needs the shared data at {DATA} or $TOPICLORA_DATA")

SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
# With the tiny tokenizer, and without any.
TINY = {**SHAPE, "max_position_embeddings": 256, "eos_token_id": 1, "pad_token_id": 2, "bos_token_id": None}
SMALL = {
    **SHAPE,
    **{"vocab_size": 64, "max_position_embeddings": 64, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2},
}


def pytest_addoption(parser):
    parser.addoption("--every", type=int, default=1, metavar="N", help="run every N-th test that is selected")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    step = config.getoption("--every")
    if step > 1:
        config.hook.pytest_deselected(items=[item for place, item in enumerate(items) if place % step])
        items[:] = items[::step]


def pytest_collection_finish(session):
    # Every Trainer collects garbage, which would go through all that the libraries hold, each time.
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory) -> Path:
    """A two-layer random llama with a word-level tokenizer over the embedded task families."""
    folder = tmp_path_factory.mktemp("tiny")
    splitter = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    text = [f"{e.prompt} {e.answer}" for e in mixture("train", 8, seed=0)]
    words = sorted({piece for line in text for piece, _ in splitter.pre_tokenize_str(line)})
    specials = ["<unk>", "<eos>", "<pad>"]
    vocabulary = {word: index for index, word in enumerate([*specials, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = splitter
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<eos>", pad_token="<pad>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(vocab_size=len(vocabulary), **TINY)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_moe_dir(tiny_model_dir, tmp_path_factory) -> Path:
    """A two-layer random OLMoE, top-2 of 4 experts, with the tiny model's tokenizer."""
    folder = tmp_path_factory.mktemp("tiny_moe")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = OlmoeConfig(vocab_size=len(tokenizer), num_experts=4, num_experts_per_tok=2, **TINY)
    OlmoeForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session", autouse=True)
def cache_of_tests(tmp_path_factory):
    """A cache of the tests' own, which has what takes long to make in common with other sessions."""
    folder, lasting = tmp_path_factory.mktemp("cache"), cache_dir()
    for name in ("models", "vectors", "lm-eval"):
        (lasting / name).mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(lasting / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOPICLORA_CACHE", str(folder))
        yield folder


@pytest.fixture(autouse=True)
def unscored(cache_of_tests):
    """No test finds what another has scored."""
    shutil.rmtree(cache_of_tests / "scores", ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def drawn_once():
    """Of graphs that are the same, which most tests build, the pictures are drawn once: that takes seconds."""
    stage, drawn = importlib.import_module("topiclora_cli.stages.build_graph"), {}
    with pytest.MonkeyPatch.context() as patch:
        for name in ("plot_graph", "plot_assignment", "plot_cosines"):
            patch.setattr(stage, name, partial(_drawn, drawn, getattr(stage, name)))
        yield


def _drawn(drawn, draw, graph, path, **options):
    key = (draw, graph.sha256, *options.items())
    if key not in drawn:
        drawn[key] = draw(graph, path, **options).read_bytes()
    path.write_bytes(drawn[key])
    return path


@pytest.fixture
def tiny_model(tiny_model_dir):
    """A fresh copy of the tiny model, in evaluation mode."""
    return AutoModelForCausalLM.from_pretrained(tiny_model_dir).eval()


def shaken(model, seed=0):
    """A model whose adapter weights are random, so that it differs from its base; in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model.eval()


def stop_at(folder: Path, step: int) -> None:
    """Leave a finished training as it would be, had it been stopped after the checkpoint of a step."""
    for checkpoint in (folder / "checkpoints").glob("checkpoint-*"):
        if int(checkpoint.name.removeprefix("checkpoint-")) > step:
            shutil.rmtree(checkpoint)
    run = RunDir(folder)
    run.record("train", replace(run.stage("train"), state="interrupted", result=None))


def write_tiny_recipe(folder: Path, model: Path) -> Path:
    """A recipe file that runs every stage on the tiny model in seconds."""
    recipe = {
        "name": "tiny",
        "model": {"name": str(model)},
        "graph": {"encoder": "hash", "steps": 20, "width": 16, "tagged_prompts": 64, "compare_seeds": 1},
        "adapter": {"r": 2, "num_experts": 4, "top_k": 2, "target_modules": ["q_proj", "down_proj"]},
        "data": {"per_family": 4},
        "train": {"batch_size": 8, "max_steps": 6, "learning_rate": 0.01, "save_steps": 2, "precision": "float32"},
        "eval": {"tasks": ["topiclora_syllogisms", "topiclora_word_sorting"], "limit": 4},
        "merge": {"calibration": 8},
        "ablation": {"cells": {"kl_off": {"loss.kl.weight": 0.0}}, "seeds": [0]},
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


@pytest.fixture
def tiny_recipe(tiny_model_dir, tmp_path) -> Path:
    """The tiny recipe, in the test's own folder."""
    return write_tiny_recipe(tmp_path, tiny_model_dir)


@pytest.fixture
def run_cli(capsys, monkeypatch, tmp_path):
    """Call the real command line in `tmp_path`; returns (exit code, everything printed on one line per line)."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str]:
        from topiclora_cli.cli.app import main

        code = 0
        try:
            main([str(a) for a in arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return call


@pytest.fixture(scope="session")
def bigbench() -> Taxonomy:
    """The topics of BIG-bench."""
    return load_taxonomy()


@pytest.fixture(scope="session")
def small() -> Taxonomy:
    """Six topics in two plain communities."""
    topics = [
        Topic("sums", "adding whole numbers", "maths"),
        Topic("algebra", "solving equations with whole numbers", "maths"),
        Topic("proofs", "showing that a theorem about equations holds", "maths"),
        Topic("poems", "writing verse that rhymes", "language"),
        Topic("jokes", "writing a line that makes people laugh", "language"),
        Topic("stories", "writing a tale about people", "language"),
    ]
    tasks = {f"m{i}": ("sums", "algebra", "proofs")[i % 2 : i % 2 + 2] for i in range(6)}
    tasks |= {f"l{i}": ("poems", "jokes", "stories")[i % 2 : i % 2 + 2] for i in range(6)}
    return Taxonomy(tuple(topics), tasks)


@pytest.fixture(scope="session")
def small_graph(small):
    return fit_topic_graph(small, HashEncoder(64), GraphSettings(num_experts=2, width=16, steps=60, seed=0))


@pytest.fixture(scope="session")
def hashed(bigbench):
    """Features of the BIG-bench topics, computed once."""
    return HashEncoder().encode(bigbench.texts)
