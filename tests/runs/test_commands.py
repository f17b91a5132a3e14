"""Commands as they are typed where the program was started."""

import os
import sys

import pytest

from topiclora_cli.runs.commands import as_typed, command_line, lasting_line, program


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A program in an environment below this folder, which is not on the path."""
    monkeypatch.chdir(tmp_path)
    script = tmp_path / ".venv" / "bin" / "topiclora"
    script.parent.mkdir(parents=True)
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(sys, "argv", [str(script)])
    return script


def test_a_program_off_the_path_is_called_as_it_was_started(installed):
    assert command_line("route", "two words") == ".venv/bin/topiclora route 'two words'"
    assert lasting_line("route") == "topiclora route"


def test_a_program_on_the_path_is_called_by_its_name(installed, monkeypatch):
    monkeypatch.setenv("PATH", f"/nowhere{os.pathsep}{installed.parent}")
    assert command_line("runs") == "topiclora runs"


def test_a_module_is_called_as_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["/site/topiclora_cli/__main__.py"])
    monkeypatch.setattr(sys, "executable", str(tmp_path / "env/bin/python"))
    assert program() == "env/bin/python -m topiclora_cli"


def test_a_library_names_the_program(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["notebook.py"])
    assert program() == "topiclora"


def test_commands_in_a_text_are_put_as_they_are_typed(installed):
    assert as_typed("See: topiclora recipes keys train") == "See: .venv/bin/topiclora recipes keys train"
    assert as_typed("means nothing to topiclora, or topiclora without it") == (
        "means nothing to topiclora, or topiclora without it"
    )
