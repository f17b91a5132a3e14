"""The model card that travels with an adapter: what it is and how to load it."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelCard, ModelCardData

_TEMPLATE_MARK = "[More Information Needed]"  # what peft's form leaves for people to fill in
TAGS = ("topiclora", "mixture-of-experts", "lora")

_TEXT = """# {title} for {base}

{summary}
{source}
The base model is {link}, the adapter was made with topiclora.

## How to use it

```python
import topiclora_cli.adapters  # registers the method with peft and transformers
from peft import AutoPeftModelForCausalLM

model = AutoPeftModelForCausalLM.from_pretrained("path or hub id of this adapter")
```

The import comes with the Python package `topiclora`. {serving}

## Adapter

| setting | value |
| --- | --- |
{table}
"""
_TOPICS = "\nIts router's keys come from a graph of topics, after the abstract of TopicLoRA (AAAI 2026).\n"


@dataclass(frozen=True)
class Card:
    """What a method says of its adapters: a title, what they are, how else to serve them, the settings to show."""

    title: str
    summary: str
    serving: str
    shown: Sequence[str]


def write_card(folder: Path, config: Any, card: Card) -> None:
    """Say in `folder`/README.md what the adapter is; a card that somebody has filled in is left alone."""
    path = folder / "README.md"
    before = ModelCard.load(path) if path.is_file() else None
    if before is not None and _TEMPLATE_MARK not in before.text:
        return
    data = before.data if before is not None else ModelCardData(library_name="peft")
    tags = {*(data.get("tags") or []), *TAGS}
    if _is_local(config.base_model_name_or_path):
        # A path means nothing to others, and a hub refuses it as a model's name.
        data["base_model"] = None
        tags = {tag for tag in tags if not tag.startswith("base_model:")}
    data["tags"] = sorted(tags)
    made = ModelCard(f"---\n{data.to_yaml()}\n---\n\n{card_text(config, card)}")
    made.save(path)


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
    values = {name: getattr(config, name) for name in card.shown}
    rows = [f"| {name} | {_plain(value)} |" for name, value in values.items() if value not in (None, False)]
    base = config.base_model_name_or_path or "its base model"
    local = _is_local(config.base_model_name_or_path)
    base = Path(base).name if local else base
    return _TEXT.format(
        title=card.title,
        base=base,
        summary=card.summary,
        source=_TOPICS if config.graph_sha256 else "",
        link=base if local else f"[{base}](https://huggingface.co/{base})",
        serving=card.serving,
        table="\n".join(rows),
    )


def _is_local(name: str | None) -> bool:
    return not name or Path(name).is_absolute() or Path(name).is_dir()


def _plain(value: Any) -> str:
    return ", ".join(sorted(map(str, value))) if isinstance(value, set) else str(value)
