"""What distributions over experts say of themselves, and of what they are drawn for."""

from torch import Tensor


def entropy(probabilities: Tensor) -> Tensor:
    """Entropy of the last axis in nats: (..., E) -> (...)."""
    return -(probabilities * probabilities.clamp_min(1e-12).log()).sum(-1)


def mutual_information(mass: Tensor) -> float:
    """Mutual information in nats of row and column, by how much mass (m, n) lies on each pair; 0 without any."""
    if mass.numel() == 0 or float(mass.sum()) == 0:
        return 0.0
    joint = mass / mass.sum()
    return float(entropy(joint.sum(0)) + entropy(joint.sum(1)) - entropy(joint.flatten()))
