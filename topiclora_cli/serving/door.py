"""Who may come in, and how one who may not is told: keys, hosts, and errors in OpenAI's shape."""

import errno
import hashlib
import hmac
import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from topiclora_cli.errors import TopicLoraError

INVALID = "invalid_request_error"
UPSTREAM = "upstream_error"
SERVER = "server_error"


@dataclass(eq=False)
class Refused(Exception):
    """A request that gets an error of this status in place of an answer; retry: seconds after which to come again."""

    status: int
    message: str
    code: str
    kind: str = INVALID
    retry: int | None = None

    @property
    def body(self) -> dict[str, dict[str, str | None]]:
        """The error as OpenAI's API has it."""
        return {"error": {"message": self.message, "type": self.kind, "param": None, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        """The headers that go with it."""
        return {} if self.retry is None else {"Retry-After": str(self.retry)}


class Door:
    """Lets in who has one of the keys; without keys, who is on this machine.

    Raises TopicLoraError for a host that other machines reach without a key, and for an empty key.
    """

    def __init__(self, host: str, keys: Sequence[str]) -> None:
        if not all(key.strip() for key in keys):
            raise TopicLoraError("An API key is empty.", "Give one that nobody guesses, or leave out --api-key.")
        if not keys and not _is_loopback(host):
            raise TopicLoraError(
                f"--host {host} is reached from other machines, and no key is asked for.",
                "Add --api-key, or leave out --host.",
            )
        self._digests = [_digest(key) for key in keys]

    @property
    def has_keys(self) -> bool:
        return bool(self._digests)

    def check(self, authorization: str, host: str) -> None:
        """Raise Refused for a request whose headers Authorization and Host do not let it in.

        Without keys the host has to be this machine's, which keeps out pages that a browser has from elsewhere under a
        name that leads here (DNS rebinding).
        """
        if not self._digests:
            name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
            if not _is_loopback(name.strip("[]")):
                raise Refused(403, f"The host {name!r} is not this machine's, and no key is asked for.", "wrong_host")
            return
        scheme, _, given = authorization.partition(" ")
        found = _digest(given.strip())
        # Every key is compared, each in constant time.
        same = [hmac.compare_digest(found, digest) for digest in self._digests]
        if scheme.lower() != "bearer" or not any(same):
            raise Refused(401, "The API key is missing or wrong: Authorization: Bearer KEY.", "invalid_api_key")


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there; raises TopicLoraError where that is not possible. Port 0 is any that is free."""
    try:
        family, *_, address = min(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM), key=lambda info: info[0])
    except socket.gaierror:
        raise TopicLoraError(f"--host {host} is no address of this machine.", "Use 127.0.0.1.") from None
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(address)
        listening.listen(1024)
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise TopicLoraError(f"Port {port} on {host} is in use.", "Choose another --port.") from None
        if error.errno in (errno.EACCES, errno.EADDRNOTAVAIL):
            raise TopicLoraError(f"{host}:{port} cannot be listened on: {error.strerror}.", "Choose another.") from None
        raise
    return listening


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
