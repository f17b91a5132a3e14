"""The losses beside language modelling, as pure functions of tensors.

Notation: L layers, B examples, S positions, E experts, r the rank of one; masks are 1 on the tokens that count.
Probabilities are the routers' dense softmax, before top-k, so that every expert's logit gets a gradient; gates are
the weights in use.
"""

from topiclora_cli.training.losses.balance import local_balance, normal_profile, sample_types, switch_balance
from topiclora_cli.training.losses.certainty import generalised_js, poisson_profile, sparsity, z_loss
from topiclora_cli.training.losses.prior import normalised_entropy, pooled_probabilities, prior_distance, prior_kl
from topiclora_cli.training.losses.schedule import kl_weight_at
from topiclora_cli.training.losses.specialise import centre_alignment, expert_contrast, key_anchor, orthogonality

__all__ = [
    "centre_alignment",
    "expert_contrast",
    "generalised_js",
    "key_anchor",
    "kl_weight_at",
    "local_balance",
    "normal_profile",
    "normalised_entropy",
    "orthogonality",
    "poisson_profile",
    "pooled_probabilities",
    "prior_distance",
    "prior_kl",
    "sample_types",
    "sparsity",
    "switch_balance",
    "z_loss",
]
