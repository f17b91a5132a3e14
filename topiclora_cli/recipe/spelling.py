"""Keys of the loss section as earlier versions spelt them, one flat name each, read as what they are called now."""

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from topiclora_cli.errors import OldSpelling, TopicLoraError

_FLAT = {
    "kl_weight": "kl.weight",
    "kl_floor": "kl.floor",
    "kl_warmup": "kl.warmup",
    "kl_direction": "kl.direction",
    "kl_layers": "kl.layers",
    "kl_tokens": "kl.tokens",
    "temperature": "kl.temperature",
    "prior_smoothing": "kl.smoothing",
    "confidence_weighted": "kl.confidence_weighted",
    "prior_forcing": "prior_forcing.start",
    "prior_forcing_until": "prior_forcing.until",
    "balance_weight": "balance.weight",
    "balance_counts": "balance.counts",
    "balance_scores": "balance.scores",
    "local_balance_weight": "local_balance.weight",
    "local_balance_delta": "local_balance.delta",
    "z_weight": "z.weight",
    "gjs_weight": "gjs.weight",
    "gjs_balance": "gjs.balance",
    "gjs_certainty": "gjs.certainty",
    "poisson_weight": "poisson.weight",
    "poisson_rate": "poisson.rate",
    "normal_weight": "normal.weight",
    "normal_width": "normal.width",
    "sparsity_weight": "sparsity.weight",
    "sparsity_target": "sparsity.target",
    "contrast_weight": "contrast.weight",
    "contrast_tokens": "contrast.tokens",
    "contrast_temperature": "contrast.temperature",
    "anchor_weight": "anchor.weight",
    "orthogonal_weight": "orthogonal.weight",
    "centre_weight": "centre.weight",
    "base_balance_weight": "base_balance.weight",
}
_DOTTED = {f"loss.{old}": f"loss.{new}" for old, new in _FLAT.items()}
_OLD = {new: old for old, new in _DOTTED.items()}


def short_name(key: str) -> str:
    """The last part of a dotted key, or the flat name of a loss's key, which says more and names folders on disk."""
    return _OLD.get(key, key).rpartition(".")[2]


def old_loss_keys() -> Mapping[str, str]:
    """The flat names that the section of losses had, each with its key there now."""
    return _FLAT


def respelt(values: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """A recipe's nested values with the keys of losses as they are called now: in its loss section, in the overrides
    of an ablation, and in what it keeps as said.

    Warns OldSpelling where there is an old name; raises TopicLoraError where an old name and a new one say the same.
    """
    result = dict(values)
    if isinstance(loss := values.get("loss"), Mapping):
        result["loss"] = _section(loss, where)
    if "ablation" in values:
        result["ablation"] = _overrides(values["ablation"], where)
    if isinstance(said := values.get("said"), Mapping):
        result["said"] = respelt(said, where=where)
    return result


def respelt_changes(changes: Iterable[tuple[str, Any]], *, where: str) -> list[tuple[str, Any]]:
    """Dotted keys and their values, as `respelt` has nested ones."""
    listed = list(changes)
    given, result = {key for key, _ in listed}, []
    for key, value in listed:
        if _is_old(key, value):
            if _DOTTED[key] in given:
                raise _twice(key, _DOTTED[key], where)
            result.append((_noted(key), value))
        elif key == "loss" and isinstance(value, Mapping):
            result.append((key, _section(value, where)))
        else:
            result.append((key, _overrides(value, where) if key.partition(".")[0] == "ablation" else value))
    return result


def respelt_keys(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by dotted key, as an earlier version kept them with a checkpoint, by the keys of now."""
    return {_DOTTED.get(key, key): value for key, value in values.items()}


def _is_old(key: str, value: Any) -> bool:
    # prior_forcing was a number, and is a mapping now.
    return key in _DOTTED and not isinstance(value, Mapping)


def _section(loss: Mapping[str, Any], where: str) -> dict[str, Any]:
    result = {key: value for key, value in loss.items() if not _is_old(f"loss.{key}", value)}
    for old, value in loss.items():
        if not _is_old(f"loss.{old}", value):
            continue
        term, key = _FLAT[old].split(".")
        settings = result.setdefault(term, {})
        if not isinstance(settings, Mapping) or key in settings:
            raise _twice(f"loss.{old}", f"loss.{_FLAT[old]}", where)
        result[term] = {**settings, key: value}
        _noted(f"loss.{old}")
    return result


def _overrides(values: Any, where: str) -> Any:
    """Whatever an ablation says, with its dotted keys and its sections of losses respelt at any depth."""
    if not isinstance(values, Mapping):
        return values
    result = {}
    for key, value in values.items():
        if _is_old(key, value):
            if _DOTTED[key] in values:
                raise _twice(key, _DOTTED[key], where)
            result[_noted(key)] = value
        else:
            within = _section(value, where) if key == "loss" and isinstance(value, Mapping) else value
            result[key] = _overrides(within, where)
    return result


def _noted(old: str) -> str:
    new = _DOTTED[old]
    warnings.warn(f"{old} is called {new} now; the loss section's old names are read, too.", OldSpelling, stacklevel=2)
    return new


def _twice(old: str, new: str, where: str) -> TopicLoraError:
    return TopicLoraError(f"{where}: {old} and {new} are one setting, which is called {new} now.", f"Leave {old} out.")
