"""What a run trains on, in a few letters, so that a resumed one can tell whether it still does."""

import hashlib
from array import array
from collections.abc import Sequence

from topiclora_cli.data import Encoded
from topiclora_cli.data.stream import ExampleStream


def fingerprint(encoded: Sequence[Encoded] | ExampleStream) -> str:
    """A hash of the examples' tokens in their order and of their weights, where these are not all the same; of a
    stream, of its local files' sizes and times of change.

    Larger sets than memory are not read twice. What a hub serves them is not looked at.
    """
    digest = hashlib.sha256()
    if isinstance(encoded, ExampleStream):
        digest.update(repr(encoded.files()).encode())
    else:
        for example in encoded:
            digest.update(array("q", [len(example.input_ids), example.prompt_length, *example.input_ids]).tobytes())
            if (weights := example.token_weights()) is not None:
                digest.update(array("d", weights).tobytes())
    return digest.hexdigest()[:32]
