"""lm-eval's own command line, untouched, in a process where peft knows our methods."""

import sys
from collections.abc import Sequence

import topiclora_cli.adapters  # noqa: F401 -- registers the methods that an adapter may be of


def run_stock(arguments: Sequence[str]) -> None:
    """lm-eval's command on these arguments; it ends as lm-eval does, with SystemExit where it says so."""
    from lm_eval.__main__ import cli_evaluate

    sys.argv = ["lm-eval", *arguments]
    cli_evaluate()
