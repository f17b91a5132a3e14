"""What a request of OpenAI's API asks: its JSON, the model that it names, and the text that its topic is told by."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.serving.door import Refused

CHAT, COMPLETION, MODELS = "/v1/chat/completions", "/v1/completions", "/v1/models"
AUTO = "auto"

# From the messages of a chat, and its tools, to what the text encoder reads.
ReadChat = Callable[[list[Any], Any], str]


def parsed(content: bytes) -> dict[str, Any]:
    """The body of a request; raises Refused for what is no JSON object."""
    try:
        body = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"The body is no JSON: {error}.", "invalid_json") from None
    if not isinstance(body, dict):
        raise Refused(400, "The body is no JSON object.", "invalid_json")
    return body


def model_named(body: Mapping[str, Any]) -> str:
    """The model that a request names, `auto` where it names none; raises Refused for what is no name."""
    name = body.get("model") or AUTO
    if not isinstance(name, str):
        raise Refused(400, "'model' is no text.", "invalid_model")
    return name


def text_asked(path: str, body: Mapping[str, Any], read_chat: ReadChat) -> str:
    """The text of a request by which its topic is told; raises Refused where there is none."""
    if path == COMPLETION:
        return _prompt(body.get("prompt"))
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise Refused(400, "'messages' is no list of messages.", "invalid_messages")
    try:
        text = read_chat(messages, body.get("tools"))
    except TopicLoraError as error:
        raise Refused(400, f"{error.message} Or name an adapter in 'model'.", "invalid_messages") from None
    if not text.strip():
        raise Refused(400, "'messages' has no text of a user's.", "invalid_messages")
    return text


def _prompt(prompt: Any) -> str:
    """Several prompts of one request are read as one text: one adapter answers all of them."""
    prompts = prompt if isinstance(prompt, list) else [prompt]
    if not prompts or not all(isinstance(each, str) for each in prompts):
        message = "'prompt' is neither text nor a list of texts; for token ids, name an adapter in 'model'."
        raise Refused(400, message, "invalid_prompt")
    return "\n\n".join(prompts).rstrip()
