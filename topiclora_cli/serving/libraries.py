"""What serving a routed model needs beyond what every other command does."""

from transformers.utils.import_utils import is_serve_available

from topiclora_cli.errors import TopicLoraError


def require_server() -> None:
    """Raise TopicLoraError where what transformers' own server needs is not installed."""
    if not is_serve_available():
        raise TopicLoraError(
            "Serving a routed model needs fastapi, uvicorn and openai, which are not all installed.",
            "Run: pip install 'topiclora[serve]'",
        )
