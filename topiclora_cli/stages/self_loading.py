"""The export that still routes: a folder with code of its own, which stock transformers loads."""

from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from topiclora_cli.adapters.card import base_name
from topiclora_cli.merging.self_loading import RoutedParts, write_self_loading
from topiclora_cli.models.base import BaseModel
from topiclora_cli.recipe import Recipe
from topiclora_cli.stages.exports import SHARD, Written, as_torch_dtype
from topiclora_cli.stages.inputs import open_base

FORMAT = "self-loading"
_TEXT = """# {base}, with routed adapters

{base} with {kind} beside its layers. It routes as the adapter does that it was made of, and needs nothing but
transformers; its own code, which you may read first, stands in `modeling_routed.py`, `adapting.py` and `choosing.py`.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("path or hub id of this model", trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained("path or hub id of this model")
```

lm-evaluation-harness: `lm_eval --model hf --model_args pretrained=PATH,trust_remote_code=True --tasks ...`. A server:
`transformers serve PATH --trust-remote-code`.
"""


def write_routed(recipe: Recipe, parts: RoutedParts, folder: Path) -> Written:
    """Write it under `folder`/self-loading, with tokenizer and card."""
    place, base = folder / FORMAT, open_base(recipe, exact=True)
    base.model.to(as_torch_dtype(recipe))  # type: ignore[arg-type]
    write_self_loading(base.model, parts, place, shard=SHARD)
    base.tokenizer.save_pretrained(place)
    _write_card(recipe, base, place)
    return Written(FORMAT, FORMAT, place)


def _write_card(recipe: Recipe, base: BaseModel, folder: Path) -> None:
    kind = "adapters around its blocks of experts" if recipe.adapter.layer == "perft" else "LoRA experts"
    data = ModelCardData(library_name="transformers", pipeline_tag="text-generation", tags=["topiclora", "custom_code"])
    text = _TEXT.format(base=base_name(base.name or base.source), kind=kind)
    ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}").save(folder / "README.md")
