"""Graphs of thousands of topics without their T x T matrices.

Ties are few and go both ways. So a graph is a sparse symmetric matrix, and the gradient of a product with it is another
product with the same matrix: no transpose, and no row of vectors gathered and scattered for every edge, which takes
tens of times as long.
"""

import warnings
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

# Topics up to which all T x T pairs are held at once: losses, link AUC and eigenvectors are then over every pair.
DENSE = 512


def symmetric(edge_index: Tensor, edge_weight: Tensor, count: int) -> Tensor:
    """Edges (2, M), both directions of each, with weights (M,) as a sparse (count, count) matrix."""
    order = (edge_index[0] * count + edge_index[1]).argsort()
    row, column = edge_index[:, order]
    starts = F.pad(torch.bincount(row, minlength=count).cumsum(0), (1, 0))
    return _csr(starts, column, edge_weight[order], count)


def product(matrix: Tensor, x: Tensor) -> Tensor:
    """A symmetric matrix (T, T), dense or sparse and without gradient of its own, times x (T, d)."""
    out: Tensor = matrix @ x if matrix.layout is torch.strided else _Product.apply(matrix, x)
    return out


def pull(matrix: Tensor, z: Tensor, temperature: float) -> Tensor:
    """Mean of -ln sigma(z_s.z_t / temperature) over the links of a sparse symmetric matrix (T, T), for z (T, d)."""
    out: Tensor = _Pull.apply(matrix, z, temperature)
    return out


def links_among(matrix: Tensor, topics: Tensor) -> Tensor:
    """Which pairs of the n given rows of a sparse matrix (T, T) are linked: (n, n) of booleans."""
    place = torch.full((len(matrix),), -1)
    place[topics] = torch.arange(len(topics))
    starts = matrix.crow_indices()
    row = torch.repeat_interleave(place, starts.diff())
    column = place[matrix.col_indices()]
    inside = (row >= 0) & (column >= 0)
    linked = torch.zeros(len(topics), len(topics), dtype=torch.bool)
    linked[row[inside], column[inside]] = True
    return linked


def degrees(weight: Tensor) -> Tensor:
    """Sum of every row (T,) of a graph (T, T), dense or sparse."""
    return weight.sum(1) if weight.layout is torch.strided else weight @ torch.ones(len(weight), dtype=weight.dtype)


def leading_eigenvectors(weight: Tensor, count: int, *, start: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The largest eigenvalues (count,), falling, and eigenvectors (T, count) of D^-1/2 A D^-1/2, A (T, T) symmetric.

    One minus this matrix is the normalised Laplacian. Of a sparse A by Lanczos' method (ARPACK) from `start` (T,),
    unset from a vector of ones.
    """
    # A topic without ties has degree 0; the floor gives it a row of its own rather than one of NaNs.
    scale = degrees(weight).double().clamp_min(1e-12).rsqrt()
    if weight.layout is torch.strided:
        values, vectors = torch.linalg.eigh(scale[:, None] * weight.double() * scale[None, :])
        return values.flip(0)[:count], vectors.flip(1)[:, :count]
    # Every command loads this module, and few find eigenvectors.
    from scipy.sparse import csr_array
    from scipy.sparse.linalg import eigsh

    matrix = csr_array((weight.values().double(), weight.col_indices(), weight.crow_indices()), shape=weight.shape)
    scaled = matrix.multiply(scale[:, None].numpy()).multiply(scale[None].numpy()).tocsr()
    first = torch.ones(len(weight), dtype=torch.float64) if start is None else start
    # Communities have nearly equal eigenvalues: a wide basis parts them, and clusters need no more digits.
    basis = min(len(weight), max(128, 4 * count if count < 64 else 2 * count))
    values, vectors = eigsh(scaled, k=count, which="LA", v0=first.numpy(), ncv=basis, tol=1e-4)
    return torch.from_numpy(values).flip(0), torch.from_numpy(vectors).flip(1)


def _csr(starts: Tensor, column: Tensor, values: Tensor, count: int) -> Tensor:
    with warnings.catch_warnings():
        # torch calls its CSR matrices a beta feature, once per process.
        warnings.simplefilter("ignore", UserWarning)
        return torch.sparse_csr_tensor(starts, column, values, (count, count), check_invariants=False)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, matrix: Tensor, x: Tensor) -> Tensor:
        ctx.matrix = matrix
        return matrix @ x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        return None, ctx.matrix @ gradient.contiguous()


class _Pull(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, matrix: Tensor, z: Tensor, temperature: float) -> Tensor:
        score = torch.sparse.sampled_addmm(matrix, z, z.T, beta=0).values() / temperature  # (M,)
        ctx.matrix, ctx.temperature = matrix, temperature
        ctx.save_for_backward(z, score)
        return F.softplus(-score).mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, None]:
        z, score = ctx.saved_tensors
        slope = -torch.sigmoid(-score) / (ctx.temperature * len(score))
        # d/dz_s of s-t is slope z_t, and t-s adds the same again.
        pulls = _csr(ctx.matrix.crow_indices(), ctx.matrix.col_indices(), slope, len(z))
        return None, 2 * gradient * (pulls @ z), None
