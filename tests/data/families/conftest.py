"""400 training problems of every family, drawn once for all tests here."""

import pytest

from topiclora_cli.data.families import FAMILIES, Example, generate


@pytest.fixture(scope="session")
def examples() -> dict[str, list[Example]]:
    return {name: generate(name, "train", 400, seed=11) for name in FAMILIES}
