"""The options of `topiclora merge` that stand for keys of the recipe's merge section, in the panels of its --help."""

from topiclora_cli.cli.keyed import KeyOption
from topiclora_cli.cli.options import listed

WRITTEN = "What is written"
PROVEN = "What it must be"

MERGE_OPTIONS = (
    KeyOption(
        "merge.formats",
        ("--to",),
        str,
        "Comma-separated: lora, dense, gguf, experts, self-loading (default: lora,dense).",
        WRITTEN,
        metavar="FORMATS",
        read=listed,
    ),
    KeyOption(
        "merge.rank",
        ("--rank",),
        int,
        "Cut the LoRA to this rank; the gap by rank is shown.",
        WRITTEN,
        clears="merge.energy",
    ),
    KeyOption(
        "merge.energy",
        ("--energy",),
        float,
        "Cut each layer to the rank that keeps this share of its squared singular values, as 0.99.",
        WRITTEN,
        clears="merge.rank",
    ),
    KeyOption("merge.dtype", ("--dtype",), str, "float32, bfloat16 or float16 (default: as it is).", WRITTEN),
    KeyOption(
        "merge.max_gap",
        ("--max-gap",),
        float,
        "Keep nothing of an export further from the routed model, in nats per answer token.",
        PROVEN,
    ),
    KeyOption(
        "merge.tasks",
        ("--eval-tasks",),
        str,
        "Comma-separated lm-eval tasks to score base, routed model and export on.",
        PROVEN,
        read=listed,
    ),
)
