"""A grid as a SLURM job array.

No run of the grid is bound to a task: every task is the command that goes on with the grid, takes one run after another
that nobody is at, values to try before the seeds that wait for them, and ends where nothing is left. Tasks bound to
runs would need a second array that waits for the whole of the first, and one lost node would leave a hole; here the
next task goes on with what it left.
"""

import math
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from topiclora_cli.ablation.grid import Cell, count_runs
from topiclora_cli.ablation.options import LaunchOptions
from topiclora_cli.runs.commands import command_line

AT_ONCE = 8  # tasks at a time, where nobody says
_WARNING = 300  # seconds before the time limit, for the running step and a checkpoint

_SCRIPT = """\
#!/bin/bash
# Submit with: sbatch FILE. What stands on sbatch's own command line counts over the lines below, for example
#   sbatch --partition=NAME --time=12:00:00 --cpus-per-task=8 FILE
# Any task goes on with any run: one that is lost, or out of time, costs what came after its last checkpoint.
#SBATCH --job-name={name}
#SBATCH --array=0-{last}%{at_once}
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task={cpus}
{gpus}#SBATCH --time=04:00:00
#SBATCH --output={log}
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@{warning}

cd {here} || exit
export OMP_NUM_THREADS="${{OMP_NUM_THREADS:-${{SLURM_CPUS_PER_TASK:-1}}}}"
worker= ending=
stop() {{ ending=$1; [ -z "$worker" ] || kill -TERM "$worker"; }}
# {warning} s before the time limit: a checkpoint, and into the queue again. Cancelled: a checkpoint.
trap 'stop limit' USR1
trap 'stop cancelled' TERM
{command} &
worker=$!
[ -z "$ending" ] || stop "$ending"
wait "$worker"; code=$?
if [ -n "$ending" ]; then wait "$worker"; code=$?; fi
if [ "$ending" = limit ] && [ "$code" -ne 0 ]; then
  scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}" && exit
fi
exit "$code"
"""


def slurm_script(run: Path, grid: Sequence[Cell], options: LaunchOptions, again: Sequence[str]) -> str:
    """The script of an array with as many tasks as the grid has runs, of which options.jobs work at a time.

    again: what `topiclora ablate --run` has to be told beside the run. A task has options.cpus cores, and a GPU where
    the options name any, or as many as a cell's share.
    """
    runs = count_runs(grid)
    jobs = options.jobs if isinstance(options.jobs, int) else AT_ONCE
    gpus = math.ceil(options.gpu_share or 0) or (1 if options.gpus else 0)
    told = [*again, *([] if options.keep_going else ["--fail-fast"])]
    told += ["--retry-failed"] if options.retry_failed else []
    folder = run.resolve()
    return _SCRIPT.format(
        name="topiclora-" + re.sub(r"[^\w.-]+", "-", folder.name),
        last=runs - 1,
        at_once=min(jobs, runs),
        cpus=max(1, math.ceil(options.cpus)),
        gpus=f"#SBATCH --gres=gpu:{gpus}\n" if gpus else "",
        log=shlex.quote(f"{folder}/slurm-%A_%a.log"),
        here=shlex.quote(str(Path.cwd())),
        warning=_WARNING,
        command=command_line("ablate", "--run", folder, *told),
    )
