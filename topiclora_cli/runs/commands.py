"""Commands of topiclora as a shell reads them."""

import shlex

RUNS = "runs"  # the folder of runs, where nobody says


def command_line(*parts: object) -> str:
    """A command that a shell takes as it is meant, spaces in paths included."""
    return shlex.join(["topiclora", *map(str, parts)])
