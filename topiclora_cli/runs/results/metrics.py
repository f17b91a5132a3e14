"""What a training logs as it goes: a row of metrics.jsonl for each logged step."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class LoggedStep:
    """Numbers by name, the `step` that they were logged at among them, and the alarms that they raised, by name."""

    values: Mapping[str, float]
    alarms: Mapping[str, str] = field(default_factory=dict)

    @property
    def step(self) -> int:
        """How many updates of the parameters there had been."""
        return int(self.values["step"])

    def as_line(self) -> str:
        """The step as metrics.jsonl has it."""
        return json.dumps({**self.values, **({"alarms": self.alarms} if self.alarms else {})}) + "\n"


def read_metrics(path: Path) -> list[LoggedStep]:
    """The rows of a metrics.jsonl; a line cut short by a kill, or damaged, ends them."""
    rows = []
    for line in path.read_bytes().splitlines() if path.is_file() else []:
        try:
            row = json.loads(line)
        except ValueError:  # no JSON, or no text
            break
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            break
        rows.append(_logged(row))
    return rows


def _logged(row: dict[str, Any]) -> LoggedStep:
    values = {name: value for name, value in row.items() if isinstance(value, int | float)}
    alarms = row.get("alarms")
    return LoggedStep(values, alarms if isinstance(alarms, dict) else {})
