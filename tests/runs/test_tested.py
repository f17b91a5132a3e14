"""The versions that are named as tested are those that the constraints install, and newer ones are said once."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from topiclora_cli.runs import tested
from topiclora_cli.runs.tested import NEWEST, newer_than_tested

ROOT = Path(__file__).parents[2]


def pins() -> dict[str, str]:
    return dict(re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))


def requirements() -> dict[str, Requirement]:
    lines = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    return {requirement.name: requirement for requirement in map(Requirement, lines)}


@pytest.mark.parametrize("name", NEWEST)
def test_what_the_constraints_pin_is_tested_and_allowed(name):
    pinned = Version(pins()[name])
    assert pinned.release[: NEWEST[name].count(".") + 1] <= Version(NEWEST[name]).release
    assert pinned in requirements()[name].specifier


def test_the_pair_that_cannot_work_is_not_allowed():
    assert Version("5.24.0") not in requirements()["transformers"].specifier
    assert Version("0.22.0") not in requirements()["peft"].specifier


@pytest.mark.parametrize(
    ("installed", "newest", "said"),
    [
        ("2.13.1+cpu", "2.13", []),
        ("2.13.0", "2.14", []),
        ("2.14.0", "2.13", ["torch 2.14.0 (tested up to 2.13)"]),
        ("3.0", "2.13", ["torch 3.0 (tested up to 2.13)"]),
    ],
)
def test_a_newer_release_is_told_from_a_newer_patch(installed, newest, said, monkeypatch):
    monkeypatch.setattr(tested.metadata, "version", lambda name: installed)
    assert newer_than_tested({"torch": newest}) == said


def test_what_is_not_installed_is_not_newer():
    assert newer_than_tested({"no-such-package": "1.0"}) == []


def test_the_command_line_says_it_once(run_cli, monkeypatch):
    monkeypatch.setattr("topiclora_cli.runs.tested.newer_than_tested", lambda: ["peft 9.0 (tested up to 0.21)"])
    code, text = run_cli("recipes", "list")
    assert code == 0
    assert text.count("peft 9.0 (tested up to 0.21)") == 1
    assert "constraints.txt" in text
