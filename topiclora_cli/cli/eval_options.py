"""The options of `topiclora eval` that stand for keys of the recipe's eval section, in the panels of its --help."""

import json
from pathlib import Path
from typing import Any

from topiclora_cli.cli.keyed import KeyOption
from topiclora_cli.cli.options import listed
from topiclora_cli.errors import TopicLoraError

ASKED = "What is asked"
POSED = "How it is posed"
SCORED = "How it is scored"


def _seeds(text: str) -> int | list[int | None]:
    try:
        parts = [None if part.lower() == "none" else int(part) for part in listed(text)]
    except ValueError:
        raise TopicLoraError(
            f"--seed {text!r} is no whole number, nor four of them.", "Example: --seed 0,1234,1234,1234"
        ) from None
    return parts[0] if len(parts) == 1 and parts[0] is not None else parts


def _samples(text: str) -> Any:
    """A mapping where it is one in JSON, else the name of a file."""
    if not text.lstrip().startswith("{"):
        return text
    try:
        return json.loads(text)
    except ValueError as error:
        raise TopicLoraError(
            f"--samples is no JSON: {error}.", """Example: --samples '{"arc_easy": [0, 3]}'"""
        ) from None


def _size(text: str) -> int | str:
    return int(text) if text.isdecimal() else text


EVAL_OPTIONS = (
    KeyOption(
        "eval.tasks",
        ("--tasks", "-t"),
        str,
        "Comma-separated lm-eval tasks and groups (default: the recipe's); see: topiclora eval tasks.",
        ASKED,
        read=listed,
    ),
    KeyOption("eval.include_path", ("--include-path",), Path, "Folder with lm-eval task files of your own.", ASKED),
    KeyOption("eval.datasets_dir", ("--datasets-dir",), Path, "Folder of copies ORG/NAME of hub data sets.", ASKED),
    KeyOption(
        "eval.limit",
        ("--limit",),
        float,
        "Questions of each task or, below 1, the share of them.",
        ASKED,
        metavar="NUMBER",
        clears="eval.samples",
    ),
    KeyOption(
        "eval.samples",
        ("--samples",),
        str,
        "JSON, or a file of it, of task: places of the questions to ask, from 0.",
        ASKED,
        metavar="FILE",
        read=_samples,
        clears="eval.limit",
    ),
    KeyOption("eval.base", ("--base/--no-base",), bool, "Measure the base model too.", ASKED),
    KeyOption(
        "eval.by_topic",
        ("--by-topic/--by-task",),
        bool,
        "Scores by the topics of the run's graph and by the experts that took the questions, too.",
        SCORED,
    ),
    KeyOption(
        "eval.by_entropy",
        ("--by-entropy/--no-by-entropy",),
        bool,
        "Scores by how sure the run's graph is of a question's topics, in quarters and as a slope, too.",
        SCORED,
    ),
    KeyOption("eval.num_fewshot", ("--num-fewshot",), int, "Examples shown before each question.", POSED),
    KeyOption("eval.system_instruction", ("--system-instruction",), str, "Said before each question.", POSED),
    KeyOption(
        "eval.chat_template",
        ("--apply-chat-template/--no-chat-template",),
        bool,
        "Put questions through the tokenizer's chat template.",
        POSED,
    ),
    KeyOption(
        "eval.fewshot_as_multiturn",
        ("--fewshot-as-multiturn/--fewshot-as-one-turn",),
        bool,
        "Show examples as turns of a conversation, under a chat template.",
        POSED,
    ),
    KeyOption(
        "eval.gen_kwargs",
        ("--gen-kwargs",),
        str,
        "Settings of generation before the task's own: temperature=0.7,do_sample=true, or JSON.",
        POSED,
    ),
    KeyOption(
        "eval.seed",
        ("--seed",),
        str,
        "One seed, or those of Python, NumPy, torch and the examples (default: 0,1234,1234,1234).",
        POSED,
        metavar="SEEDS",
        read=_seeds,
    ),
    KeyOption(
        "eval.metrics",
        ("--metrics", "-m"),
        str,
        "Comma-separated metrics; each task goes by the first that it has.",
        SCORED,
        read=listed,
    ),
    KeyOption("eval.predict_only", ("--predict-only/--score",), bool, "Write the answers down and score none.", SCORED),
    KeyOption(
        "eval.unsafe_code",
        ("--unsafe-code/--no-unsafe-code",),
        bool,
        "Run code that the model writes, for tasks that do.",
        SCORED,
    ),
    KeyOption(
        "eval.batch_size",
        ("--batch-size",),
        str,
        "Questions at once, or auto.",
        SCORED,
        metavar="NUMBER|auto",
        read=_size,
    ),
    KeyOption(
        "eval.backend",
        ("--backend",),
        str,
        "What runs the model: hf, or vllm for an export.",
        SCORED,
        metavar="hf|vllm",
    ),
    KeyOption(
        "eval.backend_args",
        ("--backend-args",),
        str,
        "What vLLM's engine is made with: max_model_len=2048,tensor_parallel_size=2, or JSON.",
        SCORED,
    ),
)
