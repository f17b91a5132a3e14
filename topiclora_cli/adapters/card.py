"""The model card that travels with an adapter: what it is and how to load it."""

import tempfile
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelCard, ModelCardData

_TEMPLATE_MARK = "[More Information Needed]"  # what peft's form leaves for people to fill in
TAGS = ("topiclora", "mixture-of-experts", "lora")

_TEXT = """# Mixture of LoRA experts for {base}

A mixture of {experts} LoRA experts of rank {rank} with a `{router}` router ({choice}) on
{link}, made with topiclora. It is a routed adapter: which experts act is decided
{granularity} by the model itself, so it cannot be merged into the base weights without fixing the gates.
{source}

## How to use it

```python
import topiclora_cli.adapters  # registers the method with peft and transformers
from peft import AutoPeftModelForCausalLM

model = AutoPeftModelForCausalLM.from_pretrained("path or hub id of this adapter")
```

The import comes with the Python package `topiclora`. Tools that know only plain LoRA can serve an export with fixed
gates (`topiclora merge`).

## Adapter

| setting | value |
| --- | --- |
{table}
"""
_SHOWN = (
    *("num_experts", "experts_per_layer", "r", "ranks_per_layer", "top_k", "top_p", "lora_alpha", "use_rslora"),
    *("shared_a", "router", "router_scope", "granularity", "mixing", "plain_modules", "target_modules"),
    *("exclude_modules", "modules_to_save", "graph_sha256"),
)


def write_card(folder: Path, config: Any) -> None:
    """Say in `folder`/README.md what the adapter is; a card that somebody has filled in is left alone."""
    path = folder / "README.md"
    card = ModelCard.load(path) if path.is_file() else None
    if card is not None and _TEMPLATE_MARK not in card.text:
        return
    data = card.data if card is not None else ModelCardData(library_name="peft")
    tags = {*(data.get("tags") or []), *TAGS}
    if _is_local(config.base_model_name_or_path):
        # A path means nothing to others, and a hub refuses it as a model's name.
        data["base_model"] = None
        tags = {tag for tag in tags if not tag.startswith("base_model:")}
    data["tags"] = sorted(tags)
    made = ModelCard(f"---\n{data.to_yaml()}\n---\n\n{card_text(config)}")
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


def card_text(config: Any) -> str:
    """The card's body for a mixture's configuration."""
    values = {name: getattr(config, name) for name in _SHOWN}
    rows = [f"| {name} | {_plain(value)} |" for name, value in values.items() if value not in (None, False)]
    choice = f"top-{config.top_k}" if config.top_k else f"top-p {config.top_p}" if config.top_p else "all mixed"
    base = config.base_model_name_or_path or "its base model"
    local = _is_local(config.base_model_name_or_path)
    base = Path(base).name if local else base
    reconstruction = "Its keys come from a graph of topics, after the abstract of TopicLoRA (AAAI 2026)."
    return _TEXT.format(
        experts="-".join(map(str, dict.fromkeys(config.experts_per_layer or [config.num_experts]))),
        rank="-".join(map(str, dict.fromkeys(config.ranks_per_layer or [config.r]))),
        router=config.router,
        choice=choice,
        base=base,
        link=base if local else f"[{base}](https://huggingface.co/{base})",
        granularity="once per prompt" if config.granularity == "prompt" else "for every token",
        source=reconstruction if config.graph_sha256 else "",
        table="\n".join(rows),
    )


def _is_local(name: str | None) -> bool:
    return not name or Path(name).is_absolute() or Path(name).is_dir()


def _plain(value: Any) -> str:
    return ", ".join(sorted(map(str, value))) if isinstance(value, set) else str(value)
