"""What a base model's weights and tokenizer are by content, wherever they lie."""

import json
from pathlib import Path

from transformers import AutoConfig

from topiclora_cli.errors import first_line
from topiclora_cli.models.packages import resolve_source
from topiclora_cli.recipe.schema import ModelSection
from topiclora_cli.runs.digests import folder_digests

# Notes and pictures beside a model change none of its answers.
_READ = (".json", ".safetensors", ".bin", ".pt", ".model", ".txt", ".jinja", ".py", ".gguf")


def base_content(section: ModelSection) -> str:
    """The content of a base as it computes: its files, or a hub's commit, and how it is made of them."""
    source = resolve_source(section.name)
    made = section.model_dump(mode="json", include={"dtype", "upcycle", "quantization"})
    return json.dumps([_weights(source, section), made])


def _weights(source: str, section: ModelSection) -> object:
    if Path(source).is_dir():
        return folder_digests(Path(source), _READ)
    options = {"revision": section.revision, "trust_remote_code": section.trust_remote_code}
    try:
        commit = getattr(AutoConfig.from_pretrained(source, **options), "_commit_hash", None)
    except (OSError, ValueError) as error:
        commit = first_line(error)  # loading the model says what is wrong
    return [source, section.revision, commit]
