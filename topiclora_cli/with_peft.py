"""peft knows our methods as soon as both packages are imported, in whichever order, and nobody pays for the other's.

peft brings torch, which takes seconds, and the command line may not need it. So where topiclora_cli comes first, the
methods wait for peft: the end of its own import registers them.
"""

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType

_PEFT = "peft"


def register_methods() -> None:
    """Register the methods with peft, now if it is imported, else when it will be; doing so twice changes nothing."""
    if _PEFT in sys.modules:
        _register()
    elif not any(isinstance(finder, _WhenImported) for finder in sys.meta_path):
        sys.meta_path.insert(0, _WhenImported())


class _WhenImported(importlib.abc.MetaPathFinder):
    """Finds peft as the other finders do, and has what they find register the methods once it is loaded."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != _PEFT:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        spec = next((found for finder in others if (found := finder.find_spec(fullname, path, target))), None)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def load_and_register(module: ModuleType) -> None:
                load(module)
                if module.__name__ == _PEFT:  # a zip file has one loader for all that is in it
                    _register()

            # It stays the loader that it is to whoever asks it for sources or files.
            spec.loader.exec_module = load_and_register  # type: ignore[method-assign]
        return spec


def _register() -> None:
    import topiclora_cli.adapters  # noqa: F401 -- importing it registers
