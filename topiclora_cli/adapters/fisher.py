"""Fisher's linear discriminant of two sorts of vectors that come in batches."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

_STILL = 1e-6  # a deviation, as a share of the mean, that rounding alone can give


@dataclass
class Moments:
    """Number, mean and covariance of vectors (d,), as they come.

    Sums are taken of what vectors differ by from the first ones' mean: the square of a feature that hardly moves, far
    from zero, would leave nothing of its variance in single precision.
    """

    count: int = 0
    origin: Tensor = field(default_factory=lambda: torch.zeros(()))
    total: Tensor = field(default_factory=lambda: torch.zeros(()))
    square: Tensor = field(default_factory=lambda: torch.zeros(()))

    def add(self, x: Tensor) -> None:
        """Take in vectors (n, d)."""
        if not len(x):
            return
        if not self.count:
            self.origin = x.mean(0)
        self.count += len(x)
        x = x - self.origin
        self.total = self.total.to(x.device) + x.sum(0)
        self.square = self.square.to(x.device) + x.T @ x

    @property
    def mean(self) -> Tensor:
        """(d,), in double precision."""
        return self.origin.double() + self._shift

    @property
    def covariance(self) -> Tensor:
        """(d, d), in double precision."""
        return self.square.double() / max(1, self.count) - torch.outer(self._shift, self._shift)

    @property
    def _shift(self) -> Tensor:
        return self.total.double() / max(1, self.count)


def discriminant(old: Moments, new: Moments) -> Tensor:
    """The direction (d,) whose product with x is, but for a constant, the log-odds of new against old (Fisher, 1936).

    Of two normal distributions with one covariance, the mean of both, which is shrunk towards independent features the
    more, the fewer vectors there are for its width. A feature that does not move has no part in it.
    """
    covariance = (old.covariance + new.covariance) / 2
    variance = covariance.diagonal()
    moves = variance > (_STILL * torch.maximum(old.mean.abs(), new.mean.abs())) ** 2
    deviation = torch.where(moves, variance, 1).sqrt()
    width = len(deviation)
    shrink = width / (width + 2 * min(old.count, new.count))
    related = covariance / torch.outer(deviation, deviation) * (1 - shrink)
    related.fill_diagonal_(1)
    direction = torch.linalg.solve(related, (new.mean - old.mean) / deviation) / deviation
    return torch.where(moves, direction, 0)
