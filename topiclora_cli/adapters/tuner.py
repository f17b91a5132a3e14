"""What our tuners have in common: one adapter for a whole batch, and no merging."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import nn

from topiclora_cli.errors import TopicLoraError


class RoutedTuner(BaseTuner):
    """Base of the tuners whose adapters decide by their input; `no_merge` is why they do not merge, and a way out."""

    no_merge: tuple[str, str]

    @contextmanager
    def _enable_peft_forward_hooks(self, *_: Any, **kwargs: Any) -> Iterator[None]:
        # peft would drop adapter_names without a word and run every example through the active adapter.
        if kwargs.get("adapter_names") is not None:
            raise TopicLoraError("A batch cannot mix adapters (adapter_names).", "Call set_adapter before each batch.")
        yield

    def _check_merge_allowed(self) -> None:
        raise TopicLoraError(*self.no_merge)

    def merge_adapter(self, adapter_names: list[str] | None = None, safe_merge: bool = False) -> None:
        """Always refuses, saying why."""
        self._check_merge_allowed()

    @staticmethod
    def refuse_adapted(target: nn.Module, name: str) -> None:
        """Raises TopicLoraError for a module that another peft method has adapted."""
        if isinstance(target, BaseTunerLayer):
            raise TopicLoraError(f"{name} already carries a {type(target).__name__} of another peft method.")
