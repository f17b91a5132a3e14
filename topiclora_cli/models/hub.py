"""The hub, as far as it fails."""

from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

# Of a name that is none, of what is not there or not allowed, and of a hub that nobody reaches.
HUB_ERRORS = (OSError, ValueError, HTTPError)
