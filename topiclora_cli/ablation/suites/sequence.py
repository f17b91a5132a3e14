"""What changes of the input do to answers and to routing, with the KL to the prior and without it."""

from topiclora_cli.ablation.suites.sizes import Sizes
from topiclora_cli.ablation.suites.suite import Made, SuiteCell
from topiclora_cli.evaluation.probes import PROBES
from topiclora_cli.recipe import Recipe

QUESTIONS, _QUICK = 20, 1  # of each task, under every probe


def make(recipe: Recipe, *, quick: bool) -> Made:
    """The recipe, the same without KL, and one LoRA of its size, each scored under every probe of `topiclora eval`."""
    cells = []
    if recipe.needs_graph and recipe.loss.kl.weight:
        question = "Does the KL to the topic prior make answers and routing steadier under changed prompts?"
        cells.append(SuiteCell("kl_off", question, {"loss.kl.weight": 0.0}))
    if recipe.adapter.method != "lora":
        sizes = Sizes(recipe)
        question = "Are the answers of one LoRA of as many parameters as steady under changed prompts?"
        cells.append(SuiteCell("lora", question, sizes.method("lora", sizes.budget())))
    changes = {"eval.probes": list(PROBES), "eval.probe_questions": _QUICK if quick else QUESTIONS}
    return Made(cells, changes=changes)
