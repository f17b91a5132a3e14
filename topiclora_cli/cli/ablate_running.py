"""The options of `topiclora ablate` on how a grid is run: how many cells at once, where, and what failed."""

from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Literal

from topiclora_cli.cli.gathered import gathered, option
from topiclora_cli.cli.options import listed
from topiclora_cli.errors import TopicLoraError, nearest

if TYPE_CHECKING:
    from topiclora_cli.ablation.options import LaunchOptions

RUN = "How it is run"
LAUNCHERS = ("local", "ray")
_RUNNING = {
    "jobs": option(
        str | None,
        "--jobs",
        "Cells at once on this machine, or auto (default: one, or one for each of --gpus).",
        RUN,
        metavar="N",
    ),
    "gpus": option(str | None, "--gpus", "GPUs to use, such as 0-3 or 0,2.", RUN, metavar="LIST"),
    "launcher": option(str, "--launcher", "Where cells run: local, or ray.", RUN, "local", metavar="NAME"),
    "address": option(str | None, "--address", "With --launcher ray: a cluster that runs.", RUN),
    "cell_cpus": option(float, "--cell-cpus", "On Ray and SLURM: processors of a cell.", RUN, 1.0, metavar="NUMBER"),
    "cell_gpus": option(
        float | None,
        "--cell-gpus",
        "On Ray and SLURM: GPUs of a cell, or the share of one (default: one, where there are any).",
        RUN,
        metavar="NUMBER",
    ),
    "keep_going": option(
        bool, ("--keep-going/--fail-fast", " /--stop"), "Whether the others run where a cell fails.", RUN, True
    ),
    "retry_failed": option(bool, "--retry-failed", "Try the cells again that failed before.", RUN, False),
}


@dataclass(frozen=True)
class RunningOptions:
    """What was typed of how it is run."""

    jobs: str | None = None
    gpus: str | None = None
    launcher: str = "local"
    address: str | None = None
    cell_cpus: float = 1.0
    cell_gpus: float | None = None
    keep_going: bool = True
    retry_failed: bool = False

    @property
    def given(self) -> bool:
        """Whether anything of it was typed."""
        return self != RunningOptions()

    @property
    def again(self) -> list[str]:
        """What a command that goes on has to say once more."""
        texts = {"--jobs": self.jobs, "--gpus": self.gpus, "--address": self.address}
        texts["--launcher"] = self.launcher if self.launcher != "local" else None
        texts["--cell-cpus"] = f"{self.cell_cpus:g}" if self.cell_cpus != 1 else None
        texts["--cell-gpus"] = f"{self.cell_gpus:g}" if self.cell_gpus is not None else None
        said = [part for name, text in texts.items() if text is not None for part in (name, text)]
        flags = {"--fail-fast": not self.keep_going, "--retry-failed": self.retry_failed}
        return [*said, *(name for name, is_given in flags.items() if is_given)]

    @property
    def places(self) -> int:
        """How many cells run at once, as far as that was said."""
        jobs = self._jobs()
        return jobs if isinstance(jobs, int) else max(1, len(self._gpus()))

    def options(self) -> "LaunchOptions":
        """What the launcher is told; raises TopicLoraError for what is no number, no list and no launcher."""
        self.check()
        from topiclora_cli.ablation.options import LaunchOptions

        return LaunchOptions(
            jobs=self._jobs(),
            gpus=self._gpus(),
            launcher=self.launcher,
            keep_going=self.keep_going,
            retry_failed=self.retry_failed,
            address=self.address,
            cpus=self.cell_cpus,
            gpu_share=self.cell_gpus,
        )

    def check(self) -> None:
        """Refuse what cannot be before anything is made."""
        if self.launcher not in LAUNCHERS:
            raise TopicLoraError(f"There is no launcher {self.launcher!r}.", nearest(self.launcher, LAUNCHERS))
        if self.address is not None and self.launcher != "ray":
            raise TopicLoraError("--address is that of a Ray cluster.", "Add --launcher ray.")
        if self.gpus is not None and self.launcher == "ray":
            raise TopicLoraError("--gpus are this machine's, and Ray numbers its own.", "Use --cell-gpus.")
        for name, number, least in (("--cell-cpus", self.cell_cpus, "above"), ("--cell-gpus", self.cell_gpus, "from")):
            if number is None or (isfinite(number) and (number > 0 or (number == 0 and least == "from"))):
                continue
            raise TopicLoraError(f"{name} {number:g}: a number {least} 0.", "Example: --cell-cpus 4 --cell-gpus 0.5")
        self._jobs()
        self._gpus()

    def _jobs(self) -> int | Literal["auto"] | None:
        if self.jobs is None or self.jobs == "auto":
            return "auto" if self.jobs else None
        if not self.jobs.isdecimal() or int(self.jobs) == 0:
            raise TopicLoraError(f"--jobs {self.jobs}: a whole number from 1, or auto.", "Example: --jobs 2")
        return int(self.jobs)

    def _gpus(self) -> tuple[int, ...]:
        found: list[int] = []
        for part in listed(self.gpus) if self.gpus is not None else []:
            low, dash, high = part.partition("-")
            ends = (low, high if dash else low)
            if not all(end.isdecimal() for end in ends) or int(ends[0]) > int(ends[1]):
                raise TopicLoraError(f"--gpus {self.gpus}: {part!r} is no GPU and no range.", "Example: --gpus 0-3,6")
            found += range(int(ends[0]), int(ends[1]) + 1)
        if len(set(found)) < len(found) or (self.gpus is not None and not found):
            raise TopicLoraError(f"--gpus {self.gpus}: each GPU once, and at least one.", "Example: --gpus 0-3")
        return tuple(found)


with_running = gathered("running", _RUNNING, RunningOptions)
