"""`topiclora lm-eval -- ...`: lm-evaluation-harness's own command, for which peft knows our methods."""

import typer

NAME = "lm-eval"
# Whatever follows is lm-eval's.
SETTINGS = {"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False}


def lm_eval(context: typer.Context) -> None:
    """Run lm-eval's own command, in which --model_args pretrained=BASE,peft=RUN/adapter may name any adapter of ours.

    What stands after -- is lm-eval's, as in: topiclora lm-eval -- run --help. It also works in several processes, by
    accelerate launch -m topiclora_cli lm-eval -- ... or torchrun -m topiclora_cli lm-eval -- ...
    """
    from topiclora_cli.evaluation.stock import run_stock

    run_stock(context.args)
