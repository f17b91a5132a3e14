"""Fisher's linear discriminant of two sorts of vectors that come in batches."""

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Moments:
    """Number, mean and covariance of vectors (d,), as they come."""

    count: int = 0
    total: Tensor = field(default_factory=lambda: torch.zeros(()))
    square: Tensor = field(default_factory=lambda: torch.zeros(()))

    def add(self, x: Tensor) -> None:
        """Take in vectors (n, d)."""
        self.count += len(x)
        self.total = self.total.to(x.device) + x.sum(0)
        self.square = self.square.to(x.device) + x.T @ x

    @property
    def mean(self) -> Tensor:
        """(d,), in double precision."""
        return self.total.double() / max(1, self.count)

    @property
    def covariance(self) -> Tensor:
        """(d, d), in double precision."""
        return self.square.double() / max(1, self.count) - torch.outer(self.mean, self.mean)


def discriminant(old: Moments, new: Moments) -> Tensor:
    """The direction (d,) whose product with x is, but for a constant, the log-odds of new against old (Fisher, 1936).

    Of two normal distributions with one covariance, the mean of both, which is shrunk towards independent features the
    more, the fewer vectors there are for its width.
    """
    covariance = (old.covariance + new.covariance) / 2
    deviation = covariance.diagonal().clamp_min(1e-12).sqrt()
    width = len(deviation)
    shrink = width / (width + 2 * min(old.count, new.count))
    related = covariance / torch.outer(deviation, deviation) * (1 - shrink)
    related.fill_diagonal_(1)
    return torch.linalg.solve(related, (new.mean - old.mean) / deviation) / deviation
