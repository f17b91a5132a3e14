"""The recipe beside the field's methods, at as many parameters in all, and at as many for each token."""

from topiclora_cli.ablation.suites.sizes import Sizes
from topiclora_cli.ablation.suites.suite import Made, SuiteCell
from topiclora_cli.recipe import Recipe

# What a method is, in the words of a question.
_DENSE = {
    "lora": "one LoRA",
    "rslora": "one LoRA scaled by alpha / sqrt(r)",
    "dora": "one LoRA that trains magnitudes apart from directions (DoRA)",
    "adalora": "one LoRA that shares out its rank among the layers (AdaLoRA)",
    "lora+": "one LoRA whose B learns faster than its A (LoRA+)",
    "molora": "a mixture that weighs all its experts (MoLoRA)",
    "mola": "a mixture with more experts in the upper layers (MoLA)",
    "hydralora": "a mixture whose experts share one A (HydraLoRA)",
    "loramoe": "a mixture with two kinds of experts, balanced apart (LoRAMoE)",
    "adamole": "a mixture whose experts pass a learnt threshold (AdaMoLE)",
    "mixlora": "a mixture of feed-forward blocks (MixLoRA)",
    "hmora": "a mixture routed by token and by task (HMoRA)",
    "gmoe": "a mixture routed by a graph of its experts (GMoE)",
    "samora": "a mixture routed by its experts' meaning (SAMoRA)",
    "ldmole": "a mixture that learns how many experts a token needs (LD-MoLE)",
    "topiclora": "a mixture guided by topics (TopicLoRA)",
}
_SPARSE = {
    "lora": "one LoRA on all linear layers outside of the base's experts",
    "lora-qv": "one LoRA on queries and values",
    "lora-experts": "a LoRA on each of the base's experts",
    "perft-r": "adapters with a router of their own beside the base's experts (PERFT-R)",
    "perft-e": "an adapter in each of the base's experts (PERFT-E)",
    "perft-d": "adapters beside the experts that every token passes through (PERFT-D)",
    "perft-s": "a single adapter beside the experts (PERFT-S)",
    "topic-perft": "routed adapters beside the experts, guided by topics",
}
_QUICK = ("lora", "rslora", "dora", "molora", "hydralora", "mixlora", "perft-e", "perft-d", "perft-s", "topic-perft")
_QUICK_ACTIVATED = ("lora", "molora", "perft-e", "perft-s")


def make(recipe: Recipe, *, quick: bool) -> Made:
    """Every method that suits the base, dense or sparse, but the recipe's own; raises TopicLoraError for one that takes
    its size from trained adapters.
    """
    sizes = Sizes(recipe)
    methods = _SPARSE if sizes.sparse else _DENSE
    cells = []
    for kind in ("total", "activated"):
        of_kind = "trainable parameters" if kind == "total" else "parameters that one token meets"
        wanted = methods if not quick else _QUICK if kind == "total" else _QUICK_ACTIVATED
        for name in methods:
            if name in wanted and name != recipe.adapter.method:
                question = f"Is the recipe better than {methods[name]}, at as many {of_kind}?"
                changes = sizes.method(name, sizes.budget(kind))
                cells.append(SuiteCell(name if kind == "total" else f"{name}-activated", question, changes))
    notes = [] if recipe.ablation.tune else [_ONE_RATE]
    return Made(cells, notes=notes)


_ONE_RATE = (
    "every method has the recipe's learning rate, or its paper's where the recipe says none; "
    "--tune train.learning_rate=... gives each its best."
)
