"""Commands of topiclora as a shell reads them."""

import shlex


def command_line(*parts: object) -> str:
    """A command that a shell takes as it is meant, spaces in paths included."""
    return shlex.join(["topiclora", *map(str, parts)])
