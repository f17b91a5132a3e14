"""Who may come in: nobody from elsewhere without a key, and nothing that the port does not say."""

import socket

import pytest

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.serving.door import Door, Refused, listen


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.8.8.8"])
def test_this_machine_s_addresses_need_no_key(host):
    Door(host, [])


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.4", "example.com", ""])
def test_others_need_one(host):
    with pytest.raises(TopicLoraError, match="no key is asked for"):
        Door(host, [])
    Door(host, ["secret"])


@pytest.mark.parametrize("keys", [[""], ["secret", " "]])
def test_an_empty_key_is_refused(keys):
    with pytest.raises(TopicLoraError, match="empty"):
        Door("127.0.0.1", keys)


@pytest.mark.parametrize(
    "given", ["", "Bearer", "Bearer ", "secret", "Bearer secre", "Bearer secret2", "Bearer \udcff"]
)
def test_nothing_but_a_key_opens(given):
    door = Door("0.0.0.0", ["secret", "other"])
    with pytest.raises(Refused) as refused:
        door.check(given, "anywhere")
    assert refused.value.status == 401
    door.check("Bearer secret", "anywhere")
    door.check("bearer other", "anywhere")


def test_a_port_that_is_in_use_is_named():
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(TopicLoraError, match=f"Port {port} on 127.0.0.1 is in use"):
            listen("127.0.0.1", port)
    listen("127.0.0.1", port).close()


@pytest.mark.parametrize(("host", "said"), [("no.such.host.invalid", "is no address"), ("192.0.2.1", "cannot be")])
def test_an_address_that_is_not_this_machine_s_is_named(host, said, monkeypatch):
    if "invalid" in host:
        monkeypatch.setattr(socket, "getaddrinfo", raises_gaierror)
    with pytest.raises(TopicLoraError, match=said):
        listen(host, 0)


def raises_gaierror(*args, **kwargs):
    raise socket.gaierror
