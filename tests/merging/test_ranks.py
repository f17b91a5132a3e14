"""The rank of an export: no more than is needed, and the best approximation of a smaller one."""

import pytest
import torch

from topiclora_cli.merging.ranks import cut, rank_of_energy, smallest, spectrum

A, B = torch.randn(6, 9, generator=torch.Generator().manual_seed(0)), torch.randn(12, 6)
PRODUCT = B @ A


def test_rows_without_weight_and_rows_beyond_the_matrix_are_left_out():
    idle = B.clone()
    idle[:, [1, 4]] = 0
    lora_a, lora_b = smallest((A, idle))
    assert torch.equal(lora_a, A[[0, 2, 3, 5]])
    torch.testing.assert_close(lora_b @ lora_a, idle @ A)
    assert len(smallest((A, 0 * B))[0]) == 1
    wide_a, wide_b = torch.randn(20, 9), torch.randn(12, 20)
    lora_a, lora_b = smallest((wide_a, wide_b))
    assert len(lora_a) == 9
    torch.testing.assert_close(lora_b @ lora_a, wide_b @ wide_a, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_a_cut_is_that_of_the_singular_values(rank):
    u, s, v = torch.linalg.svd(PRODUCT)
    lora_a, lora_b = cut(spectrum((A, B)), rank)
    best = (u[:, :rank] * s[:rank]) @ v[:rank]
    torch.testing.assert_close(lora_b @ lora_a, best, atol=1e-4, rtol=1e-4)


def test_energy_is_a_share_of_the_squared_singular_values():
    squares = torch.linalg.svdvals(PRODUCT) ** 2
    shares = (squares.cumsum(0) / squares.sum()).tolist()
    ordered = spectrum((A, B))
    assert rank_of_energy(ordered, shares[2] - 1e-4) == 3
    assert rank_of_energy(ordered, shares[2] + 1e-4) == 4
    assert rank_of_energy(ordered, 1.0) <= 6
