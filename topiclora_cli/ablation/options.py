"""How a grid is worked off, as a command asks for it."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class LaunchOptions:
    """How a grid is worked off.

    jobs: cells at once; None: one, or one for each of the `gpus`, which are numbered as this process sees them; `auto`:
    one for each GPU, or else for each core as far as memory goes. launcher: `local`, or `ray` on the cluster at
    `address`, where a cell takes `cpus` and `gpu_share` of a GPU, None being a whole one where there are any.
    keep_going: whether the others go on where a cell fails. retry_failed: whether those are tried again that an earlier
    call has seen fail.
    """

    jobs: int | Literal["auto"] | None = None
    gpus: tuple[int, ...] = ()
    launcher: str = "local"
    keep_going: bool = True
    retry_failed: bool = False
    address: str | None = None
    cpus: float = 1
    gpu_share: float | None = None
