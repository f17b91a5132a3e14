"""A process keeps the latest of each kind where it is told to, and nothing elsewhere."""

from topiclora_cli.runs.held import held, holding


def test_nothing_is_kept_outside_the_block():
    assert [held("number", 1, lambda: object()) is held("number", 1, lambda: object())] == [False]


def test_the_latest_of_each_kind_is_kept():
    made = []

    def make(value):
        made.append(value)
        return value

    with holding():
        for key in ("a", "a", "b", "b", "a"):
            assert held("letter", [key], lambda key=key: make(key)) == key
        assert held("other", ["a"], lambda: make("of another kind")) == "of another kind"
        assert held("letter", ["a"], lambda: make("never")) == "a"
    assert made == ["a", "b", "a", "of another kind"]


def test_what_is_sound_no_more_is_made_again():
    with holding():
        assert held("list", 1, list) is held("list", 1, list)
        spoilt = held("list", 1, list)
        spoilt.append(1)
        assert held("list", 1, list, sound=lambda kept: not kept) == []
