"""Topics of questions that are to be the same for every model."""

from topiclora_cli.evaluation.asking import Asked
from topiclora_cli.stages.opened import Opened


def test_questions_that_all_models_share_go_by_their_data_or_their_task_and_not_by_a_models_graph():
    asked = [
        Asked(task, 0, doc, "multiple_choice", "1 + 1 =", ("1 + 1 =",), (" 2",), (0,), " 2", (0,))
        for task, doc in (("sums", {}), ("tales", {"topics": ["fables"]}))
    ]
    opened = Opened(None, None, None, object())  # whose graph would fail to answer
    assert opened.topics(asked, alike=True) == [("sums",), ("fables",)]
