"""The keys of a format as a table of templates, and a checkpoint's tensors sorted by it.

A template is a key with {module} in the place of the adapted layer's name and, of a part that each expert has,
{expert} in that of its number.
"""

import re
from collections.abc import Iterable, Iterator, Mapping

from torch import Tensor

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.importing.checkpoint import Checkpoint

Table = Mapping[str, str]  # part -> template
_SHOWN = 3
_WHOLE = re.compile(r"base_model\.model\.(?P<module>.+?)(?:\.modules_to_save)?\.(?P<tensor>weight|bias)")


class Sorted:
    """A checkpoint's tensors by module and part; experts are numbered from 0.

    ignored: templates of keys that hold nothing of their own. Raises TopicLoraError, naming it, for a key that the
    format does not have. whole: what was trained and saved whole beside the adapter, under peft's keys.
    """

    def __init__(self, checkpoint: Checkpoint, table: Table, ignored: Iterable[str] = (), *, of: str) -> None:
        self.checkpoint, self.table, self.of = checkpoint, table, of
        self.modules: dict[str, dict[str, dict[int, Tensor]]] = {}
        self.whole: dict[str, Tensor] = {}
        self._missing: list[str] = []
        patterns = {part: _pattern(template) for part, template in table.items()}
        skipped = [_pattern(template) for template in ignored]
        unknown = []
        for key, tensor in checkpoint.tensors.items():
            part, match = next(((p, m) for p, each in patterns.items() if (m := each.fullmatch(key))), (None, None))
            if match is not None and part is not None:
                number = int(match.groupdict().get("expert") or 0)
                self.modules.setdefault(match["module"], {}).setdefault(part, {})[number] = tensor
            elif not any(each.fullmatch(key) for each in skipped) and not self._saved_whole(key, tensor):
                unknown.append(key)
        if unknown:
            raise TopicLoraError(
                f"{checkpoint.file} holds {_named(unknown)}, which is no part of {of}.",
                "What an adapter cannot hold would be lost, so nothing was imported.",
            )

    def require(self, module: str, parts: Mapping[str, int | None]) -> None:
        """Note which tensors of a module are missing: of each part one, or one for each of so many experts."""
        for part, count in parts.items():
            found = self.modules[module].get(part, {})
            numbers = range(count) if count is not None else range(1)
            template = self.table[part]
            self._missing += [template.format(module=module, expert=n) for n in numbers if n not in found]
            if surplus := sorted(set(found) - set(numbers)):
                key = template.format(module=module, expert=surplus[0])
                raise TopicLoraError(
                    f"{self.checkpoint.file} holds {key}, and its configuration says {count} experts.",
                    "Put the configuration that it was saved with beside it.",
                )

    def complete(self) -> None:
        """Raise TopicLoraError, naming them, where something that was required is missing."""
        if self._missing:
            raise TopicLoraError(
                f"{self.checkpoint.file} lacks {_named(self._missing)}, which every checkpoint of {self.of} has.",
                "Fetch the file again, or ask its publisher.",
            )

    def one(self, module: str, part: str) -> Tensor:
        """A part that a module has once."""
        return self.modules[module][part][0]

    def each(self, module: str, part: str) -> list[Tensor]:
        """A part that each expert of a module has, in their order; raises TopicLoraError where sizes differ."""
        tensors = [tensor for _, tensor in sorted(self.modules[module][part].items())]
        for number, (first, tensor) in enumerate((tensors[0], each) for each in tensors):
            if tensor.shape != first.shape or tensor.dim() != 2:
                key = self.table[part].format(module=module, expert=number)
                raise TopicLoraError(
                    f"{self.checkpoint.file}: {key} is {tuple(tensor.shape)}, the first expert's {tuple(first.shape)}.",
                    "Experts of unlike sizes are no mixture.",
                )
        return tensors

    def names(self, part: str) -> Iterator[str]:
        """The modules that have a part."""
        return (module for module, parts in self.modules.items() if part in parts)

    def _saved_whole(self, key: str, tensor: Tensor) -> bool:
        if ".original_module." in key:
            return True
        match = _WHOLE.fullmatch(key)
        wanted = self.checkpoint.settings.get("modules_to_save") or ()
        if match is None or not any(match["module"].split(".")[-1] == name for name in wanted):
            return False
        self.whole[f"base_model.model.{match['module']}.{match['tensor']}"] = tensor
        return True


def _pattern(template: str) -> re.Pattern[str]:
    text = re.escape(template).replace(r"\{module\}", r"(?P<module>.+)").replace(r"\{expert\}", r"(?P<expert>\d+)")
    return re.compile(text.replace(r"\{any\}", ".+"))


def _named(keys: list[str]) -> str:
    more = f" and {len(keys) - _SHOWN} more keys" if len(keys) > _SHOWN else ""
    return ", ".join(keys[:_SHOWN]) + more
