"""`topiclora upcycle`: a dense model as a mixture of copies of its feed-forward blocks."""

from pathlib import Path
from typing import Annotated

import typer

from topiclora_cli.cli.console import console


def upcycle(
    model: Annotated[str, typer.Argument(help="Dense Llama or Mistral: hub id, folder, or pypi:<package>.")],
    out: Annotated[Path, typer.Argument(help="New folder for the Mixtral.")],
    experts: Annotated[int, typer.Option("--experts", "-e", help="Copies of each feed-forward block.")] = 4,
    top_k: Annotated[int, typer.Option("--top-k", "-k", help="Experts active for each token.")] = 2,
    noise: Annotated[
        float, typer.Option("--noise", help="Noise on every expert, in standard deviations of each matrix.")
    ] = 0.0,
    permute: Annotated[
        bool, typer.Option("--permute", help="Shuffle each expert's neurons; changes no result.")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", help="Seed of router, noise and permutations.")] = 0,
) -> None:
    """Turn a dense model into a mixture of experts that computes the same function, as long as no noise is added."""
    from topiclora_cli.recipe import build_recipe

    values = {"experts": experts, "top_k": top_k, "noise": noise, "permute": permute, "seed": seed}
    recipe = build_recipe({"name": "-", "model": {"name": model, "upcycle": values}}, where="upcycle")
    assert recipe.model.upcycle is not None
    from topiclora_cli.adapters.counting import activated_base_parameters
    from topiclora_cli.models.base import load_skeleton, upcycle_to

    made = upcycle_to(model, out, recipe.model.upcycle)
    moe = load_skeleton(str(out))
    console.print(
        f"{out}: {moe.num_parameters():,} parameters, {activated_base_parameters(moe):,} activated per token; "
        f"largest logit difference to the dense model {made.difference:.1e} ({made.dtype})",
        soft_wrap=True,
    )
