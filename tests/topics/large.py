"""A taxonomy far larger than BIG-bench's, with planted communities: what stage 1 must take in its stride."""

import torch
from torch import Tensor

from topiclora_cli.topics.taxonomy import Taxonomy, Topic

COMMUNITY = 50  # topics


def large_taxonomy(topics: int, tasks: int, *, width: int = 512, seed: int = 0) -> tuple[Taxonomy, Tensor]:
    """A taxonomy of many topics in communities of 50, and features (T, width) that lean towards their community.

    Every task carries four topics of one community, one task in ten a stranger besides.
    """
    generator = torch.Generator().manual_seed(seed)
    communities = -(-topics // COMMUNITY)
    first = torch.randint(communities, (tasks, 1), generator=generator) * COMMUNITY
    members = first + torch.randint(COMMUNITY, (tasks, 4), generator=generator)
    strangers = torch.randint(topics, (tasks, 1), generator=generator)
    strays = torch.rand(tasks, 1, generator=generator) < 0.1
    tagged = torch.cat((members, torch.where(strays, strangers, members[:, :1])), dim=1).clamp_max(topics - 1)
    names = [f"topic {i}" for i in range(topics)]
    centres = torch.randn(communities, width, generator=generator)
    features = centres[torch.arange(topics) // COMMUNITY] + 3 * torch.randn(topics, width, generator=generator)
    taxonomy = Taxonomy(
        tuple(Topic(name, f"what {name} is about", f"group {i // COMMUNITY}") for i, name in enumerate(names)),
        {f"task {i}": tuple(dict.fromkeys(names[t] for t in row)) for i, row in enumerate(tagged.tolist())},
    )
    return taxonomy, features
