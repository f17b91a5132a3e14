"""The page on suites lists the cells of every suite, as the code makes them of the quickstart."""

import re

import pytest
from transformers import LlamaConfig

from tests.docs.pages import ROOT
from topiclora_cli.ablation.suites import SUITES, suite_changes
from topiclora_cli.recipe import load_recipe

PAGE = (ROOT / "docs" / "suites.md").read_text(encoding="utf-8")
# The structure of SmolLM2-135M, which is all that a suite reads of a base.
SMOLLM2 = {
    **{"vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30},
    **{"num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True},
}


def table_of(name, recipe):
    """The table as the page should have it."""
    whole, quick = (suite_changes(recipe, [name], quick=size).values for size in (False, True))
    lines = ["| cell | asks | quick |", "| --- | --- | --- |"]
    for cell, question in whole["ablation.about"].items():
        marked = "yes" if cell in quick["ablation.cells"] else ""
        lines.append(f"| `{cell}` | {question.replace('|', chr(92) + '|')} | {marked} |")
    return "\n".join(lines)


def test_every_suite_is_listed_with_its_question():
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (?:every|mixtures)", PAGE, re.MULTILINE)
    assert rows == [(name, suite.question) for name, suite in SUITES.items()]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    # Budgets are solved cell by cell, which takes minutes for most of them.
    [pytest.param(name, marks=[] if name in ("components", "sequence") else pytest.mark.nightly) for name in SUITES],
)
def test_the_cells_of_a_suite_are_those_of_the_code(name, tmp_path):
    LlamaConfig(**SMOLLM2).save_pretrained(tmp_path)
    wanted = table_of(name, load_recipe("quickstart", [("model.name", str(tmp_path))]))
    section = PAGE.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
    assert wanted in section, f"docs/suites.md, {name}:\n{wanted}"
