"""The card of a bundle on the hub: which LoRA is for which topic, and what serves them."""

from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from topiclora_cli.adapters.card import base_name
from topiclora_cli.errors import TopicLoraError
from topiclora_cli.runs.results.bundle import BUNDLE, Bundle
from topiclora_cli.serving.servers import start_line

_TEXT = """# LoRAs by topic for {base}

Plain LoRAs for {base}, {count} of them, in the place of a mixture of LoRA experts: each has the gates fixed at
what they are for prompts about its topics. `{bundle}` says which is for which topic, `topic_graph/` tells a
prompt's topic.

| LoRA | rank | topics |
| --- | --- | --- |
{rows}

## A LoRA for each prompt, by its topic

A server of LoRAs has them all, and topiclora's gateway before it names the one for each prompt. The first line starts
vLLM; `--server sglang` and `--server lorax` print what starts those.

```sh
$(topiclora serve {repository} --print-upstream)
topiclora serve {repository} --upstream http://127.0.0.1:8000
```

## vLLM alone

Every request names its LoRA, as the model.

```sh
hf download {repository} --local-dir {name}
{vllm}
```

## One of them in peft

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained("{loaded}")
model = PeftModel.from_pretrained(base, "{repository}", subfolder="{folder}")
```
"""


def bundle_card(bundle: Bundle, repository: str) -> ModelCard:
    """The card for a repository that holds the bundle's folder; it names no folder of this machine."""
    local = ":" in bundle.base or Path(bundle.base).is_dir()
    data = ModelCardData(library_name="peft", base_model=None if local else bundle.base, tags=["lora", "topiclora"])
    name, base = repository.rpartition("/")[2], base_name(bundle.base)
    first = next(adapter for adapter in bundle.adapters if adapter.name == bundle.default)
    topics = {each.name: ", ".join(each.topics) or "those that training never saw" for each in bundle.adapters}
    text = _TEXT.format(
        base=base,
        count=len(bundle.adapters),
        bundle=BUNDLE,
        rows="\n".join(f"| {each.name} | {each.rank} | {topics[each.name]} |" for each in bundle.adapters),
        repository=repository,
        name=name,
        vllm=_vllm(bundle, Path(name)),
        loaded="path of the base model" if local else bundle.base,
        folder=first.folder,
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}")


def _vllm(bundle: Bundle, folder: Path) -> str:
    """The command that starts vLLM, or why none does."""
    try:
        return start_line("vllm", bundle, folder)
    except TopicLoraError as error:
        return f"# {error.message}"
