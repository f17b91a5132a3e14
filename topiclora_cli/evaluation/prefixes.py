"""Which prompts begin alike, so that what they begin with runs once: the worked examples of a task, most of all."""

from collections.abc import Sequence
from itertools import pairwise, takewhile
from typing import NamedTuple

LEAST = 8  # tokens of a beginning that is worth a mask over the keys and values of others
OF_CALLS = 256  # tokens that could run in the time of the calls that a group has for itself

Prompt = tuple[int, ...]


class Group(NamedTuple):
    """length: tokens that all of these begin with, 0 for what shares nothing; members: the prompts by number."""

    length: int
    members: list[int]


class _Part(NamedTuple):
    """Neighbours in the order of their tokens, from `start` to `end`, as far as groups of them save tokens."""

    start: int
    end: int
    saved: int
    groups: list[tuple[int, int, int]]  # length, start, end


def by_prefix(prompts: Sequence[Prompt]) -> list[Group]:
    """Different prompts in groups that begin alike, and last those for which it does not pay.

    A beginning of p tokens saves n prompts (n - 1) * p of them and costs calls of its own. Of one prompt at least one
    token is left behind the beginning.
    """
    order = sorted(range(len(prompts)), key=prompts.__getitem__)
    shared = [_shared(prompts[one], prompts[other]) for one, other in pairwise(order)]
    parts = [_Part(at, at, 0, []) for at in range(len(order))]
    starts, ends = dict(enumerate(parts)), dict(enumerate(parts))
    # The longest beginnings first: what is joined later shares no more than what was joined before.
    for gap in sorted(range(len(shared)), key=lambda gap: -shared[gap]):
        if shared[gap] < LEAST:
            break
        left, right = ends.pop(gap), starts.pop(gap + 1)
        together = (right.end - left.start) * shared[gap] - OF_CALLS
        if together > left.saved + right.saved:
            part = _Part(left.start, right.end, together, [(shared[gap], left.start, right.end)])
        else:
            part = _Part(left.start, right.end, left.saved + right.saved, left.groups + right.groups)
        starts[part.start] = ends[part.end] = part
    groups = [Group(length, order[start : end + 1]) for part in starts.values() for length, start, end in part.groups]
    grouped = {member for group in groups for member in group.members}
    rest = [number for number in range(len(prompts)) if number not in grouped]
    return [*groups, Group(0, rest)] if rest else groups


def _shared(one: Prompt, other: Prompt) -> int:
    """Tokens that two prompts begin with, the last of neither among them."""
    pairs = zip(one[:-1], other[:-1], strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
