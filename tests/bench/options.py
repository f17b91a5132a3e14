"""The options that the bench and the peers' process have in common: both sides must measure the same model."""

import argparse
from dataclasses import replace

from tests.bench.models import SHAPES, Shape


def add_model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shape", choices=SHAPES, default="135m", help="whose numbers the random model has")
    parser.add_argument("--layers", type=int, help="fewer decoder layers than the shape has, for a quick look")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="on cuda: bfloat16")
    parser.add_argument("--threads", type=int, help="CPU threads; default: torch's own choice")


def chosen_shape(options: argparse.Namespace) -> Shape:
    shape = SHAPES[options.shape]
    return replace(shape, layers=options.layers) if options.layers else shape


def as_arguments(options: argparse.Namespace) -> list[str]:
    """The same options for another process's command line."""
    names = ("shape", "layers", "device", "threads")
    return [f"--{name}={value}" for name in names if (value := getattr(options, name)) is not None]
