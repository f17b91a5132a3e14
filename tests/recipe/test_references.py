"""Sources: every method says where it comes from, what it follows and where it deviates, and the command prints it."""

import pytest

from topiclora_cli.recipe.methods import METHODS
from topiclora_cli.recipe.references import REFERENCES


def test_the_methods_and_no_others_have_a_source():
    assert set(REFERENCES) == set(METHODS)
    for name, reference in REFERENCES.items():
        assert reference.paper, name
        assert reference.follows, name


def test_every_deviation_has_a_name_of_its_own_and_a_reason():
    for name, reference in REFERENCES.items():
        names = [deviation.name for deviation in reference.deviations]
        assert len(set(names)) == len(names), name
        assert all(d.name and d.what and d.why for d in reference.deviations), name


@pytest.mark.parametrize("name", METHODS)
def test_sources_print_paper_code_and_deviations(name, run_cli):
    code, text = run_cli("methods", name, "--sources")
    assert code == 0, text
    reference = REFERENCES[name]
    printed = "".join(text.split())
    for words in (reference.paper, reference.code, reference.follows):
        assert "".join(words.split()) in printed
    for deviation in reference.deviations:
        for words in (deviation.name, deviation.what, deviation.why):
            assert "".join(words.split()) in printed


def test_without_the_flag_no_source_is_printed_and_an_unknown_method_is_an_error(run_cli):
    code, text = run_cli("methods", "mola")
    assert code == 0
    assert "2402.08562" not in text
    code, text = run_cli("methods", "moal", "--sources")
    assert code == 2
    assert "unknown method" in text
