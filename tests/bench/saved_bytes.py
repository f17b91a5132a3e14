"""What a forward pass leaves behind for the backward pass: the bytes autograd saves, weights aside.

Unlike time this is the same on every run, so a test can hold the adapters to it. A storage counts once however many
views of it are saved, and counts whole, since whole is how it stays allocated.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor


def saved_bytes(forward: Callable[[], object], weights: Iterable[Tensor]) -> int:
    """Bytes that `forward` saves for its backward pass; `weights` are there anyway and do not count."""
    storages: dict[int, torch.UntypedStorage] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage  # kept alive, so that no address can stand for two storages
        return tensor.detach()  # with its history, an operation that saves its own output would never be freed

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        forward()
    known = {weight.untyped_storage().data_ptr() for weight in weights}
    return sum(storage.nbytes() for address, storage in storages.items() if address not in known)
