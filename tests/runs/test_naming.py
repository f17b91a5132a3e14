"""Outcomes that a run has several of: none overwrites another, and the same request is refreshed."""

import pytest

from topiclora_cli.errors import TopicLoraError
from topiclora_cli.runs.naming import finished, named_folder, named_folders


def test_another_request_gets_a_number_and_the_same_one_its_folder_again(tmp_path):
    names = [named_folder(tmp_path, None, default="a,b", request={"limit": n}).name for n in (1, 2, 3, 2, 1)]
    assert names == ["a,b", "a,b-2", "a,b-3", "a,b-2", "a,b"]


def test_a_given_name_is_refreshed_by_its_request_and_refused_to_another(tmp_path):
    for _ in range(2):
        assert named_folder(tmp_path, "mine", default="x", request={"limit": 1}) == tmp_path / "mine"
    with pytest.raises(TopicLoraError, match="holds the outcome of another request"):
        named_folder(tmp_path, "mine", default="x", request={"limit": 2})


@pytest.mark.parametrize("name", ["a/b", "..", "", "a b"])
def test_names_that_are_no_folder_are_refused(tmp_path, name):
    with pytest.raises(TopicLoraError, match="no name of a folder"):
        named_folder(tmp_path, name, default="x", request={})
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_unknown_origin_is_left_alone(tmp_path):
    (tmp_path / "mean").mkdir()
    assert named_folder(tmp_path, None, default="mean", request={}).name == "mean-2"


def test_derived_names_fit_a_file_system(tmp_path):
    assert named_folder(tmp_path, None, default="topic:speed, time & 1/2", request={}).name == "topic-speed,-time-1-2"
    assert len(named_folder(tmp_path, None, default="a" * 400, request={}).name) <= 60


def test_the_latest_outcome_is_last(tmp_path):
    for number, name in enumerate(("b", "a", "unfinished")):
        folder = named_folder(tmp_path, name, default="x", request={})
        if name != "unfinished":
            (folder / "summary.json").write_text(str(number))
    assert [folder.name for folder in named_folders(tmp_path, "summary.json")] == ["b", "a"]


def test_an_outcome_is_found_by_its_request(tmp_path):
    for limit in (1, 2):
        folder = named_folder(tmp_path, None, default="x", request={"limit": limit})
        (folder / "summary.json").write_text("{}")
    assert finished(tmp_path, "summary.json", {"limit": 1}) == tmp_path / "x" / "summary.json"
    assert finished(tmp_path, "summary.json", {"limit": 3}) is None
