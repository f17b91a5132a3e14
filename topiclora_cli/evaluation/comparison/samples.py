"""Some questions of one evaluation that its base and its tuned model answered differently."""

from collections.abc import Mapping
from pathlib import Path

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.evaluation.comparison.answers import find_answers
from topiclora_cli.evaluation.comparison.flips import Flip, in_turn, read_flips

_TASKS = 12  # whose samples are looked through at most


def sample_flips(folder: Path, keys: Mapping[str, str], count: int) -> list[Flip]:
    """At most `count` questions of the evaluation in `folder`, one of every task in turn.

    keys: the metric that each task goes by, as lm-eval calls it. Empty where there are no samples of both models, or
    damaged ones, of which `topiclora compare` says more.
    """
    try:
        base, tuned = (find_answers(folder / side) for side in ("base", "tuned"))
        flipped: dict[str, list[str]] = {}
        for task in [name for name in keys if name in base.files and name in tuned.files][:_TASKS]:
            before, after = (side.task(task).scores.get(keys[task], {}) for side in (base, tuned))
            names = [name for name in before if name in after and before[name] != after[name]]
            flipped |= {task: names} if names else {}
        return [
            flip
            for task, names in in_turn(flipped, count).items()
            for flip in read_flips(task, base.files[task], tuned.files[task], keys[task], names)
        ]
    except TopicLoraError:
        return []
