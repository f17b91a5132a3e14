"""Which tokens the KL is about: those of the prompt, or the answer's too; in training and in validation alike."""

from types import SimpleNamespace

import pytest
import torch

from tests.training.cut_steps import adapted, examples
from topiclora_cli.recipe.loss import LossSection
from topiclora_cli.training.batch import Batch
from topiclora_cli.training.collate import Collator
from topiclora_cli.training.losses import prior_distance
from topiclora_cli.training.terms import loss_terms
from topiclora_cli.training.validation import validation_losses
from topiclora_cli.training.watched import Watched
from topiclora_cli.training.whole_step import count_step

SECTION = {"kl": {"weight": 1.0, "warmup": 0.0, "layers": "all", "confidence_weighted": False}}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("tokens", ["prompt", "all"])
def test_the_mean_is_over_these_tokens_of_each_example(tokens, packed):
    rows, model = examples(), adapted("topic").train()
    batch = Batch.of(Collator(0, packed=packed)(rows))
    watched = Watched(model, LossSection(kl={**SECTION["kl"], "tokens": tokens}))
    with watched.watching(batch, 0.0) as record:
        outputs = model(**batch.inputs)
    step = watched.step(batch, record, outputs, 0.0)
    pooled = []
    for logits in record.logits.values():
        each = [row[taken.bool()] for row, taken in zip(logits.softmax(-1), batch.token_mask, strict=True)]
        ends = [row["prompt_length"] if tokens == "prompt" else None for row in rows]
        pooled.append(torch.stack([row[:end].mean(0) for row, end in zip(each, ends, strict=True)]))
    expected = prior_distance(torch.stack(pooled), prior=batch.prior).mean()
    torch.testing.assert_close(loss_terms(step, count_step([batch], None), {})["kl"][1], expected)
    found = validation_losses(
        model,
        [Collator(0, packed=packed)(rows)],
        watched.section,
        SimpleNamespace(gather_for_metrics=lambda values: values),
    )
    assert found["eval_kl"] == pytest.approx(expected.item(), rel=1e-5)


def test_the_prompt_s_is_the_default():
    assert LossSection().kl.tokens == "prompt"
