"""`topiclora`: the Typer application and the one place where errors become exit codes.

Commands import the library inside their bodies, so that `topiclora --help` answers at once.
"""

import errno
import os
import signal
import sys
import warnings
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from topiclora_cli import __version__
from topiclora_cli.cli import (
    ablate,
    build_graph,
    chat,
    compare,
    data,
    evaluate,
    import_checkpoint,
    lm_eval,
    merge,
    methods,
    push,
    quickstart,
    recipes,
    report,
    route,
    runs,
    serve,
    train,
    upcycle,
)
from topiclora_cli.cli.complete import complete_in_bash, completes_in_bash
from topiclora_cli.cli.console import NO_SPACE, fail, note_newer, old_spelling_noted
from topiclora_cli.errors import Interrupted, TopicLoraError
from topiclora_cli.runs.files import is_full_disk
from topiclora_cli.runs.processes import process_count


class _Commands(TyperGroup):
    """Ends on a signal with the signal's code, whatever the command, also where a training meant to go on later."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Interrupted as stop:
            fail("Interrupted.")
            raise typer.Exit(stop.exit_code) from None
        except KeyboardInterrupt:
            fail("Interrupted.")
            raise typer.Exit(128 + signal.SIGINT) from None


_IN_SEVERAL = ("train", "eval", lm_eval.NAME)  # commands that several processes may run together
# What a path can be that is no fault of the program's.
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)

app = typer.Typer(
    name="topiclora",
    cls=_Commands,
    help="Fine-tune a frozen language model with LoRA experts whose routing is anchored in topics.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("quickstart")(quickstart.quickstart)
app.command("build-graph")(build_graph.build_graph)
app.command("train")(train.train)
app.add_typer(evaluate.app, name="eval")
app.command(lm_eval.NAME, context_settings=lm_eval.SETTINGS)(lm_eval.lm_eval)
app.command("compare")(compare.compare)
app.command("merge")(merge.merge)
app.command("route")(route.route)
app.command("chat")(chat.chat)
app.command("serve")(serve.serve)
app.add_typer(ablate.app, name="ablate")
app.command("report")(report.report)
app.command("methods")(methods.methods)
app.command("push")(push.push)
app.command("import")(import_checkpoint.import_checkpoint)
app.command("upcycle")(upcycle.upcycle)
app.add_typer(data.app, name="data")
app.add_typer(recipes.app, name="recipes")
app.add_typer(runs.app, name="runs")


def _version(value: bool) -> None:
    if value:
        typer.echo(f"topiclora {__version__}")
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options that stand before the command."""
    from topiclora_cli.runs.tested import newer_than_tested

    note_newer(newer_than_tested())
    if process_count() > 1 and context.invoked_subcommand not in _IN_SEVERAL:
        raise TopicLoraError(
            f"topiclora {context.invoked_subcommand} runs in one process, not in {process_count()}.",
            f"Start it without torchrun; {' and '.join(f'`topiclora {name}`' for name in _IN_SEVERAL)} take several.",
        )


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; exits 2 on a mistake of the user's, 130 or 143 after a signal."""
    if completes_in_bash():
        complete_in_bash(lambda: app(arguments))
    if (sys.argv[1:] if arguments is None else arguments)[:1] != [lm_eval.NAME]:  # which is left as it is
        # Libraries' bars have no names, and a hundred of them; each stage has one of ours. A hub's downloads keep
        # theirs.
        os.environ.setdefault("TQDM_DISABLE", "1")
        # Deprecations between transformers and peft are not the user's to mend.
        warnings.filterwarnings("ignore", category=FutureWarning)
    try:
        with old_spelling_noted():
            app(arguments)
    except TopicLoraError as error:
        fail(error.message, error.hint)
        sys.exit(error.exit_code)
    except Exception as error:
        if is_full_disk(error):
            hint = "Free some, and go on with --run (train: and --resume), or choose another --out."
            fail(NO_SPACE, hint)
        elif isinstance(error, OSError) and error.errno in _FORBIDDEN and error.filename:
            fail(
                f"{error.filename} cannot be used: {error.strerror}.", "Choose another place, or have it opened to you."
            )
        else:
            raise
        sys.exit(2)
