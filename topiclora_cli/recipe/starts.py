"""Where adapters may start from: which of peft's `init_lora_weights` a recipe can ask for, and what else that needs."""

import re

from topiclora_cli.errors import nearest

LORA_STARTS = ("gaussian", "orthogonal", "olora", "pissa", "pissa_niter_16", "mica", "eva")
_REFUSED = {
    "loftq": "replaces the base's weights by quantised ones, which no adapter can carry",
    "corda": "reads statistics of its own, which are to be made beforehand",
    "lora_ga": "reads gradients, which are to be made beforehand",
}
_NOT_PACKED = ("olora", "pissa", "mica", "orthogonal")


def check_lora_start(start: bool | str) -> bool | str:
    """A value of peft's LoraConfig.init_lora_weights as it is; raises ValueError for one that cannot be had here."""
    if isinstance(start, bool) or start in LORA_STARTS or re.fullmatch(r"pissa_niter_\d+", start):
        return start
    if start in _REFUSED:
        raise ValueError(f"{start} {_REFUSED[start]}; use pissa, olora or eva (on a quantised base, eva)")
    raise ValueError(
        f"unknown start; known: true, false, {', '.join(LORA_STARTS)}. {nearest(start, LORA_STARTS)}".strip()
    )


def needs_plain_weights(key: str, start: bool | str) -> bool:
    """Whether a start decomposes the base's weights, or is made of numbers like theirs, as peft's orthogonal is."""
    of_peft = key == "init_lora_weights" and str(start).startswith(_NOT_PACKED)
    return of_peft or start == "svd"
