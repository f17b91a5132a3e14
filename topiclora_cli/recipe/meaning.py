"""Which settings a method reads, of those that its layer has. The others are not passed over in silence: whoever gives
one is told.

What a setting means may depend on others: a router's width on the router, a number of experts on a list of them.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from topiclora_cli.recipe.adapter import FIELDS, KINDS
from topiclora_cli.recipe.methods import DEFAULT, METHODS

_FROM_LORAS = (
    *("num_experts", "r", "budget", "lora_alpha", "scaling", "use_rslora", "shared_a", "target_modules", "init"),
)
_OF_A_ROUTED_PERFT = (
    *("top_k", "router", "router_temperature", "router_init", "train_keys", "renormalize", "router_weight_source"),
    "shared_experts",
)
# Routers with a rule of their own for how many experts take part.
CHOOSE_THEMSELVES = ("threshold", "sparsegen", "uniform")
# Routers whose choice no prior can force: those, and one that knows no tokens, and one that mixes two choices.
_NOT_FORCED = (*CHOOSE_THEMSELVES, "static", "hierarchical")
_FORCING = ("prior_forcing.start", "prior_forcing.until")
_WIDE = ("graph", "sparsegen")
_JOINED = ("topic", "linear")  # routers whose softmax shared experts can join
_OF_THE_BASE = "base_balance.weight"  # the one loss that is not about an adapter's own routers and experts


def idle_settings(adapter: Mapping[str, Any], loss: Mapping[str, Any], loss_keys: Iterable[str]) -> dict[str, str]:
    """Dotted keys that nothing reads under these settings of adapter and loss, a method's own included, each with the
    reason.

    loss_keys: all keys of the loss section, dotted where they lie within a term's mapping.
    """
    name = adapter.get("method", DEFAULT)
    layer = METHODS[name].layer
    idle = dict.fromkeys(FIELDS.keys() - KINDS[layer].model_fields.keys(), f"means nothing to {name}")
    if layer == "mixture":
        idle |= _idle_in_a_mixture(adapter)
    if layer == "perft":
        idle |= _idle_in_perft(adapter, name)
    dotted = {f"adapter.{key}": reason for key, reason in idle.items()}
    if not has_routers(adapter):
        reason = f"means nothing to {name}, which has no routed experts that it could shape"
        dotted |= {f"loss.{key}": reason for key in loss_keys if key != _OF_THE_BASE}
        dotted["train.router_learning_rate"] = f"means nothing to {name}, which has no router"
        return dotted
    if not has_priors(adapter, loss):
        reason = f"goes by examples' topic priors, and this recipe trains {name} without"
        dotted |= {f"loss.{key}": reason for key in ("local_balance.delta", *_FORCING)}
    router = adapter.get("router", "topic")
    if router in _NOT_FORCED:
        reason = f"means nothing to the {router} router, which has a rule of its own for its choice"
        dotted |= {f"loss.{key}": reason for key in _FORCING}
    if router != "threshold" and _within(loss, "balance", "scores") == "excess":
        dotted["loss.balance.scores"] = f"means nothing to the {router} router, which has no threshold"
    if router != "cosine":
        dotted["loss.centre.weight"] = f"means nothing to the {router} router, which has no keys among the experts"
    return dotted


def has_priors(adapter: Mapping[str, Any], loss: Mapping[str, Any]) -> bool:
    """Whether training knows a topic prior of each example: it builds the topic graph for the router's keys or the KL.

    Both sections are filled in.
    """
    return has_routers(adapter) and bool(adapter.get("router", "topic") == "topic" or _within(loss, "kl", "weight"))


def has_routers(adapter: Mapping[str, Any]) -> bool:
    """Whether a method has routers of its own, which losses and a rate of their own can shape."""
    layer = METHODS[adapter.get("method", DEFAULT)].layer
    return layer == "mixture" or (layer == "perft" and adapter.get("variant", "routed") == "routed")


def _within(loss: Mapping[str, Any], term: str, key: str) -> Any:
    """A setting of a term; None where it is not given, or the term is no mapping."""
    settings = loss.get(term)
    return settings.get(key) if isinstance(settings, Mapping) else None


def _idle_in_a_mixture(adapter: Mapping[str, Any]) -> dict[str, str]:
    router = adapter.get("router", "topic")
    idle: dict[str, str] = {}
    if router in CHOOSE_THEMSELVES:
        reason = f"means nothing to the {router} router, which chooses how many experts take part"
        idle |= dict.fromkeys(("top_k", "top_p", "gate_weights"), reason)
    elif adapter.get("top_p") or not adapter.get("top_k"):
        idle["gate_weights"] = "means nothing without adapter.top_k, whose experts it weights"
    elif adapter.get("shared_experts") and adapter.get("shared_gate") == "softmax":
        idle["gate_weights"] = "means nothing to shared_gate: softmax, whose one softmax makes all gates"
    if router not in _WIDE:
        idle["router_width"] = f"means nothing to the {router} router"
    if router == "uniform":
        idle["router_temperature"] = "means nothing to the uniform router"
    if router in ("uniform", "static"):
        reason = f"means nothing to the {router} router, which reads no tokens"
        idle |= dict.fromkeys(("granularity", "router_dropout", "router_init"), reason)
    if router != "topic":
        idle["train_keys"] = f"means nothing to the {router} router, which has no keys of topics"
    if not adapter.get("shared_experts"):
        idle["shared_gate"] = "means nothing without adapter.shared_experts"
    elif router not in _JOINED:
        idle["shared_gate"] = f"means nothing to the {router} router, whose gates no other expert can join"
    elif adapter.get("mixing") == "ffn":
        idle["shared_gate"] = "means nothing to mixing: ffn, where shared experts are part of every chosen one"
    # auto asks for a choice, which is somebody's matter in any case.
    given = adapter.get("num_experts") != "auto"
    if adapter.get("experts_by_depth") and given:
        idle["num_experts"] = "means nothing here: adapter.experts_by_depth says how many experts there are"
    if adapter.get("init_from"):
        reason = "means nothing here: adapter.init_from brings it with the trained adapters"
        idle |= dict.fromkeys(_FROM_LORAS if given else _FROM_LORAS[1:], reason)
    return idle


def _idle_in_perft(adapter: Mapping[str, Any], name: str) -> dict[str, str]:
    variant = adapter.get("variant", "routed")
    idle: dict[str, str] = {}
    if variant != "routed":
        idle |= dict.fromkeys(_OF_A_ROUTED_PERFT, f"means nothing to {name}: its {variant} variant has no router")
    if variant in ("embedded", "shared"):
        number = "one for each of the base's experts" if variant == "embedded" else "a single one"
        idle["num_experts"] = f"means nothing to {name}: of its {variant} adapters there is {number}"
    if adapter.get("adapter_type") == "parallel":
        reason = "means nothing to adapter_type: parallel, which is not scaled"
        idle |= dict.fromkeys(("lora_alpha", "scaling"), reason)
    return idle
