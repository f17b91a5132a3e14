"""The formats by name: what their keys tell them by, and what turns each into an adapter of ours."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from topiclora_cli.errors import TopicLoraError, nearest
from topiclora_cli.importing.adamole import adamole
from topiclora_cli.importing.base import Base
from topiclora_cli.importing.checkpoint import Checkpoint
from topiclora_cli.importing.forks import hydralora, loramoe, mola
from topiclora_cli.importing.imported import Asked, Imported
from topiclora_cli.importing.moe_peft import mixlora, moe_peft
from topiclora_cli.importing.perft import perft
from topiclora_cli.importing.samora import samora

Convert = Callable[[Checkpoint, Asked, Base], Imported]


@dataclass(frozen=True)
class Format:
    """A format: an example of each key that tells it, of which a checkpoint of it has all, with N for a number.

    top_k: whether its files say how many experts a token meets, or that has to be asked, or all take part.
    """

    keys: tuple[str, ...]
    convert: Convert
    top_k: Literal["stored", "asked", "all"] = "all"
    has_tasks: bool = False


FORMATS: Mapping[str, Format] = {
    "hydralora": Format(("base_model.*.lora_A.weight", "base_model.*.lora_BN.weight"), hydralora),
    "loramoe": Format(("base_model.*.lora_AN.weight",), loramoe),
    "mola": Format(("base_model.*.lora_A_N.weight",), mola, "asked"),
    "mixlora": Format(("mixlora.layers.N.*",), mixlora, "stored"),
    "moe-peft": Format(("(mola|loramoe).layers.N.*",), moe_peft, "stored"),
    "adamole": Format(("base_model.*.lora_A.N.weight",), adamole, "stored"),
    "perft": Format(("model.layers.N.*(shared_|embedded_)(routing_)?adapter.*.weight",), perft, "stored"),
    "samora": Format(("*.lora_lambdas",), samora, has_tasks=True),
}
_REFUSED: Mapping[str, tuple[str, str]] = {
    "*.mora.mora_a": ("HMoRA", "its gates follow another rule, and its task router reads an encoder of its own"),
    "mixlora.layers.N.gate.(X|mlp|mlp_struct|proj|convs|lamb|theta).*": (
        "GMoE",
        "its router is a graph network with parameters of its own kind",
    ),
    "*topiclora_A.weight": ("topiclora", "it is an adapter of ours already, which peft and topiclora load as it is"),
    "*perft_A.weight": ("topiclora", "it is an adapter of ours already, which peft and topiclora load as it is"),
    "base_model.*.lora_B.weight": ("plain LoRA", "it has no experts; peft loads it as it is"),
}


def recognise(checkpoint: Checkpoint, wanted: str = "auto") -> str:
    """The name of a checkpoint's format.

    wanted: what it is said to be. Raises TopicLoraError for one that is none, that cannot be represented, that is
    another than was said, or that mixes two.
    """
    if wanted != "auto" and wanted not in FORMATS:
        raise TopicLoraError(f"--from {wanted}: no such format.", nearest(wanted, FORMATS))
    keys = list(checkpoint.tensors)
    for example, (title, reason) in _REFUSED.items():
        # MixLoRA's attention is a plain LoRA as well, under keys of its own.
        if (key := _first(example, keys)) and not (title == "plain LoRA" and _found(keys)):
            raise TopicLoraError(
                f"{checkpoint.file} is a {title} checkpoint ({key}): {reason}.", "Nothing was imported."
            )
    found = _found(keys)
    if not found:
        looked = "; ".join(f"{name}: {' and '.join(each.keys)}" for name, each in FORMATS.items())
        raise TopicLoraError(
            f"{checkpoint.file} is of no known format; its first key is {keys[0]}.", f"What was looked for: {looked}."
        )
    if len(found) > 1:
        both = " and ".join(f"{name} ({key})" for name, key in found.items())
        raise TopicLoraError(f"{checkpoint.file} holds keys of several formats: {both}.", "Import a file of one.")
    name = next(iter(found))
    same = {name, "moe-peft"} if name == "mixlora" else {name}  # which is MoE-PEFT's as well
    if wanted != "auto" and wanted not in same:
        raise TopicLoraError(
            f"{checkpoint.file} is no {wanted} checkpoint but one of {name} ({found[name]}).",
            f"Leave out --from, or say --from {name}.",
        )
    return name


def convert(name: str, checkpoint: Checkpoint, asked: Asked, base: Base) -> Imported:
    """A checkpoint of a format as an adapter of ours; raises TopicLoraError where it is not exactly one."""
    form = FORMATS[name]
    if asked.top_k is not None and form.top_k != "asked":
        says = "says itself how many experts a token meets" if form.top_k == "stored" else "mixes all of its experts"
        raise TopicLoraError(f"--top-k {asked.top_k}: a {name} checkpoint {says}.", "Leave --top-k out.")
    for option, value in (("--task", asked.task), ("--temperature", asked.temperature)):
        if value is not None and not form.has_tasks:
            raise TopicLoraError(f"{option} means nothing to a {name} checkpoint.", "Leave it out.")
    return form.convert(checkpoint, asked, base)


def _found(keys: Sequence[str]) -> dict[str, str]:
    """The formats that the keys tell, each with the key that told it."""
    found = {}
    for name, form in FORMATS.items():
        told = [_first(example, keys) for example in form.keys]
        if all(told):
            found[name] = str(told[0])
    return found


def _first(example: str, keys: Iterable[str]) -> str | None:
    pattern = re.compile(re.sub(r"[.*N]", lambda m: {".": r"\.", "*": ".*", "N": r"\d+"}[m[0]], example))
    return next((key for key in keys if pattern.fullmatch(key)), None)
