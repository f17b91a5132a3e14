"""Which part of the method earns its place: the recipe without each of them, and with a control in its stead."""

from typing import Any

from topiclora_cli.ablation.suites.sizes import Sizes
from topiclora_cli.ablation.suites.suite import Made, SuiteCell
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.recipe import Recipe
from topiclora_cli.recipe.adapter.experts import ExpertsSection

_QUICK = (
    *("lora", "gnn_off", "separation_off", "kl_off", "kl_reverse", "kl_js", "kl_constant", "hard_label"),
    *("random_graph", "shuffled", "uniform", "router_learned", "shared_0", "scale_expert"),
)


def make(recipe: Recipe, *, quick: bool) -> Made:
    """The components of a mixture that topics guide; raises TopicLoraError for a recipe without topics."""
    section = recipe.adapter
    if not recipe.needs_graph or not isinstance(section, ExpertsSection):
        raise TopicLoraError(
            f"The suite components takes the parts of a topic mixture away, and this recipe trains {section.method} "
            "without topics.",
            "Take a recipe of topiclora or topic-perft: --set adapter.method=topiclora",
        )
    sizes = Sizes(recipe)
    plain = SuiteCell(
        "lora",
        "Is the mixture worth more than one plain LoRA of as many trainable parameters?",
        sizes.method("lora", sizes.budget()),
    )
    kl = _of_the_kl(recipe)
    cells = [plain, *_of_the_graph(), *kl, *_of_the_adapter(section, sizes)]
    notes = [] if kl else ["The cells on the KL term are left out: loss.kl.weight is 0 in this recipe."]
    return Made([cell for cell in cells if not quick or cell.name in _QUICK], notes=notes)


def _of_the_graph() -> list[SuiteCell]:
    return [
        _cell("gnn_off", "Does the graph network improve on the text's own vectors?", "graph.gnn", "none"),
        _cell("separation_off", "Do experts need to be kept apart in stage 1?", "graph.separation", "none"),
        _cell(
            "random_graph",
            "Does it matter which topics are tied, or will any graph of the same degrees do?",
            "graph.control",
            "random_graph",
        ),
        _cell("shuffled", "Does it matter which topics an expert owns?", "graph.control", "shuffled"),
        SuiteCell(
            "uniform",
            "Is the prior more than a call for even load?",
            # Even priors have no confidence, so their KL would have no weight.
            {"graph.control": "uniform", "loss.kl.confidence_weighted": False},
        ),
    ]


def _of_the_kl(recipe: Recipe) -> list[SuiteCell]:
    kl = recipe.loss.kl
    if not kl.weight:
        return []
    directions = {
        "kl_forward": ("forward", "KL(prior || routing), which asks for every expert of the prior,"),
        "kl_reverse": ("reverse", "KL(routing || prior), which lets routing keep to one of the prior's experts,"),
        "kl_js": ("js", "Jensen and Shannon's divergence, which is bounded,"),
    }
    return [
        _cell("kl_off", "Is the KL to the topic prior worth anything?", "loss.kl.weight", 0.0),
        *(
            _cell(name, f"Would {why} do better?", "loss.kl.direction", direction)
            for name, (direction, why) in directions.items()
            if direction != kl.direction
        ),
        SuiteCell(
            "kl_constant",
            "Does the KL's schedule pay, or will its peak weight from the first step to the last do?",
            {"loss.kl.floor": kl.weight, "loss.kl.warmup": 0.0},
        ),
        _cell("kl_no_floor", "Must the KL last to the end of training?", "loss.kl.floor", 0.0),
        _cell("hard_label", "Is a soft prior better than its likeliest expert as a label?", "loss.kl.label", "hard"),
    ]


def _of_the_adapter(section: ExpertsSection, sizes: Sizes) -> list[SuiteCell]:
    experts = section.fewest_experts
    alpha = 2.0 * section.r
    laws = {
        "total": "by one law for all mixtures and plain LoRA",
        "expert": "each expert by alpha / r, as most papers have it, with alpha 2 r",
        "sqrt": "each expert by alpha / sqrt(r), as rsLoRA has it, with alpha 2 r",
    }
    routed: dict[str, Any] = {"adapter.router": "linear", "loss.kl.weight": 0.0}
    return [
        SuiteCell("router_learned", "Can a router without topics and without KL learn as much?", routed),
        *(
            SuiteCell(
                f"shared_{number}",
                f"What are {number or 'no'} shared experts beside the routed ones worth, at the same size?",
                sizes.resized({"adapter.shared_experts": number}),
            )
            for number in (0, experts)
            if number != section.shared_experts
        ),
        *(
            SuiteCell(
                f"scale_{law}",
                f"How much of the result is the scale: {why}?",
                {"adapter.scaling": law, **({} if law == "total" else {"adapter.lora_alpha": alpha})},
            )
            for law, why in laws.items()
            if law != section.scaling
        ),
    ]


def _cell(name: str, question: str, key: str, value: Any) -> SuiteCell:
    return SuiteCell(name, question, {key: value})
