"""The losses beside language modelling, as pure functions of tensors.

Notation: L layers, B examples, S positions, E experts, r the rank of one; masks are 1 on the tokens that count.
Probabilities are the routers' dense softmax, before top-k, so that every expert's logit gets a gradient; gates are
the weights in use. What is a mean over tokens or examples is returned for each of them: the mean is over a whole
optimizer step, which its micro-batches and processes only have parts of (terms.py).
"""

from topiclora_cli.training.losses.balance import (
    expert_activity,
    importance,
    local_balance,
    normal_profile,
    sample_types,
    switch_balance,
)
from topiclora_cli.training.losses.certainty import (
    distribution_and_entropy,
    generalised_js,
    poisson_profile,
    sparsity,
    z_loss,
)
from topiclora_cli.training.losses.common import full_precision, probabilities, token_sum
from topiclora_cli.training.losses.prior import (
    normalised_entropy,
    pooled_probabilities,
    prior_distance,
    smoothed,
    target,
)
from topiclora_cli.training.losses.schedule import kl_weight_at, prior_forcing_at
from topiclora_cli.training.losses.specialise import (
    centre_alignment,
    expert_contrast,
    key_anchor,
    orthogonality,
    output_products,
)

__all__ = [
    "centre_alignment",
    "distribution_and_entropy",
    "expert_activity",
    "expert_contrast",
    "full_precision",
    "generalised_js",
    "importance",
    "key_anchor",
    "kl_weight_at",
    "local_balance",
    "normal_profile",
    "normalised_entropy",
    "orthogonality",
    "output_products",
    "poisson_profile",
    "pooled_probabilities",
    "prior_distance",
    "prior_forcing_at",
    "probabilities",
    "sample_types",
    "smoothed",
    "sparsity",
    "switch_balance",
    "target",
    "token_sum",
    "z_loss",
]
