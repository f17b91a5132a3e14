"""Label noise: the topics of some prompts dealt out anew among them."""

from collections.abc import Sequence
from random import Random

Tags = Sequence[Sequence[str]]


def with_noise(tags: Tags, share: float, *, seed: int) -> list[Sequence[str]]:
    """The tags of prompts, those of `share` of the prompts that have any shuffled among these.

    How often each topic comes stays as it is. With one seed the prompts of a lower share are among those of a higher
    one; at 1 tags say nothing about their prompts. By chance a prompt gets tags like its own.
    """
    tagged = [place for place, names in enumerate(tags) if names]
    chance = Random(f"{seed} tag noise")
    chosen = chance.sample(tagged, len(tagged))[: round(share * len(tagged))]
    dealt = dict(zip(chosen, chance.sample(chosen, len(chosen)), strict=True))
    return [tags[dealt.get(place, place)] for place in range(len(tags))]
