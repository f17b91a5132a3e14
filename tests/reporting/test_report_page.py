"""`topiclora report`: one page of a run or of several, from their files alone."""

import html.parser
import json
import math
import re
import shutil
import subprocess
import sys

import pytest

from topiclora_cli.recipe import build_recipe, dump_recipe, load_recipe
from topiclora_cli.reporting.sections import Curves, Estimate, Intervals
from topiclora_cli.reporting.svg import curves_svg, intervals_svg
from topiclora_cli.runs.results.ablation import CellScore, GridScores
from topiclora_cli.runs.results.files import write_result
from topiclora_cli.runs.results.record import GridFacts
from topiclora_cli.runs.results.training import SourceReport, TrainResult
from topiclora_cli.runs.run import RunDir

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
LEFT_OUT = dict.fromkeys(
    ("filtered", "missing", "empty", "duplicates", "contaminated", "surplus", "held_out", "too_long"), 0
)


def made_up(path, *, rate=0.001, task="<b>few</b>"):
    """A run with a training and an evaluation, nothing of which was ever run."""
    recipe = build_recipe({"name": "made-up", "model": {"name": "m"}, "train": {"learning_rate": rate}}, where="x")
    run = RunDir.create(path, recipe_yaml=dump_recipe(recipe), name="made-up", seed=3)
    source = SourceReport("s", None, read=9, used=8, tagged=0, mean_tokens=5.0, wanting={}, **LEFT_OUT)
    with run.running("train") as running:
        running.result = TrainResult(
            1, 4, 8, 1234, 567, final={"step": 4, "loss": 1.5}, alarms=("Dead & gone.",), data=(source,)
        )
    run.update(created="2026-01-02T03:04:05+00:00")
    rows = [{"step": step, "loss_lm": 3 - step / 4, "memory_gib": 2.5} for step in range(1, 5)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    figures = {"unit": "share", "higher_is_better": True, "tuned": 0.5, "tuned_stderr": 0.1}
    figures |= dict.fromkeys(("base", "base_stderr", "delta", "delta_stderr"))
    scores = {"task": task, "group": False, "depth": 0, "counted": True, "metric": "acc", "filter": "none", "count": 7}
    routing = {"by_topic": {"sums": [0.9, 0.1]}, "effective_experts": 1.2, "entropy": 0.4}
    routing |= {"mutual_information": 0.1, "largest_load": 0.9}
    summary = {"name": "few", "mean": None, "tasks": [{**scores, **figures, "metrics": {}}], "failed": {}}
    (path / "eval" / "few").mkdir(parents=True)
    (path / "eval" / "few" / "summary.json").write_text(json.dumps({**summary, "routing": routing}))
    return path


@pytest.fixture
def run(tmp_path):
    return made_up(tmp_path / "one")


class Page(html.parser.HTMLParser):
    """The tags of a page and the text of its cells; fails on one that is not closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.words = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in {"meta", "img"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_the_page_of_a_run_lies_in_it_and_is_the_same_when_made_twice(run, run_cli):
    code, text = run_cli("report", run)
    assert code == 0, text
    assert f"Report: {run / 'report.html'}" in text
    first = (run / "report.html").read_bytes()
    assert run_cli("report", run)[0] == 0
    assert (run / "report.html").read_bytes() == first


def test_the_page_says_what_the_markdown_says_and_lets_no_text_become_markup(run, run_cli, tmp_path):
    assert run_cli("report", run, "--html", tmp_path / "p.html", "--markdown", tmp_path / "p.md")[0] == 0
    page, markdown = Page((tmp_path / "p.html").read_text()), (tmp_path / "p.md").read_text()
    words = " ".join(page.words)
    for said in ("made-up, seed 3", "1,234", "Alarm: Dead & gone.", "50.0 ± 10.0", "2.50", "Routing by topic"):
        assert said in words
        assert said in markdown
    assert "b" not in {tag for tag, _ in page.tags}
    assert "<b>few</b>" in words
    assert {tag for tag, _ in page.tags} >= {"main", "nav", "section", "svg", "polyline", "thead", "caption"} - {
        "caption"
    }
    assert all(attributes.get("aria-label") for tag, attributes in page.tags if tag == "svg")


def test_a_last_step_that_raised_an_alarm_is_read_as_earlier_versions_wrote_it(run, run_cli, tmp_path):
    manifest = json.loads((run / "run.json").read_text())
    manifest["stages"]["train"]["final"]["alarms"] = {"dead": "Dead & gone."}
    (run / "run.json").write_text(json.dumps(manifest))
    code, text = run_cli("report", run, "--markdown", tmp_path / "p.md")
    assert code == 0, text
    assert (tmp_path / "p.md").read_text().count("Dead & gone.") == 1
    manifest["stages"]["train"]["final"] = [1.5]
    (run / "run.json").write_text(json.dumps(manifest))
    code, text = run_cli("report", run)
    assert (code, "run.json is damaged (final:" in text) == (2, True), text


def test_the_page_needs_nothing_from_elsewhere(run, run_cli):
    run_cli("report", run)
    page = Page((run / "report.html").read_text())
    assert not {"script", "link", "iframe"} & {tag for tag, _ in page.tags}
    linked = [value for _, attributes in page.tags for name, value in attributes.items() if name in {"src", "href"}]
    assert all(value.startswith(("#", "data:image/png;base64,")) for value in linked)


def test_several_runs_stand_side_by_side_and_what_differs_comes_first(run, run_cli, tmp_path):
    other = made_up(tmp_path / "two", rate=0.002)
    code, text = run_cli("report", run, other)
    assert (code, "--html page.html" in text) == (2, True), text
    assert run_cli("report", run, other, "--markdown", tmp_path / "both.md")[0] == 0
    text = (tmp_path / "both.md").read_text()
    assert "| key | one | two |\n| --- | --- | --- |\n| train.learning_rate | 0.001 | 0.002 |\n" in text
    assert "| \\<b>few\\</b> | acc, % ↑ | 7 | 50.0 ± 10.0 | 50.0 ± 10.0 |" in text


def test_what_a_run_does_not_have_is_left_out_with_a_word(tmp_path, run_cli):
    RunDir.create(tmp_path / "bare", recipe_yaml="", name="bare", seed=0)
    code, text = run_cli("report", tmp_path / "bare", "--markdown", tmp_path / "bare.md")
    assert code == 0, text
    text = (tmp_path / "bare.md").read_text()
    assert "The recipe of bare cannot be read by this version." in text
    assert "## Not in this report\n\ntraining not made, evaluation not made, export not made.\n" in text


def test_a_grid_shows_its_cells_and_lacks_nothing_that_they_have(tmp_path, run_cli):
    recipe = build_recipe({"name": "grid", "model": {"name": "m"}}, where="x")
    run = RunDir.create(tmp_path / "grid", recipe_yaml=dump_recipe(recipe), name="grid", seed=0)
    cell = CellScore("full", 2, "acc", "share", True, 0.5, 0.01, None, 0.25, None)
    write_result(run.path / "ablation" / "results.json", GridScores((cell,)))
    with run.running("ablation") as running:
        running.result = GridFacts(cells=1, seeds=2)
    assert run_cli("report", run.path, "--markdown", tmp_path / "grid.md")[0] == 0
    text = (tmp_path / "grid.md").read_text()
    assert "| full | 2 | 50.0 | 1.0 | - | 0.250 | - |" in text
    assert "Not in this report" not in text
    assert "topiclora ablate --recipe recipe.yaml --out again\n" in text


def test_runs_asked_other_numbers_of_questions_say_each(run, run_cli, tmp_path):
    summary = made_up(tmp_path / "two") / "eval" / "few" / "summary.json"
    summary.write_text(summary.read_text().replace('"count": 7', '"count": 70'))
    assert run_cli("report", run, tmp_path / "two", "--markdown", tmp_path / "both.md")[0] == 0
    assert "| acc, % ↑ | 7, 70 | 50.0 ± 10.0 |" in (tmp_path / "both.md").read_text()


def test_runs_of_one_name_are_told_apart_by_their_paths(run, run_cli, tmp_path):
    other = made_up(tmp_path / "elsewhere" / "one", rate=0.002)
    assert run_cli("report", run, other, "--markdown", tmp_path / "both.md")[0] == 0
    assert f"| key | {run} | {other} |" in (tmp_path / "both.md").read_text()


def test_a_score_is_drawn_no_further_than_a_share_can_be():
    drawn = intervals_svg(Intervals("t", "share", {"few": {"tuned": Estimate(0.0, 0.2)}}), ["tuned"])
    start, zero = (re.search(rf'class="{kind}" x1="([\d.]+)"', drawn)[1] for kind in ("c0", "grid"))
    assert start == zero


def test_what_is_no_number_leaves_a_gap_in_a_curve():
    drawn = curves_svg(Curves("loss", {"one": [(1, 1.0), (2, math.nan), (3, math.inf), (4, 2.0)]}), ["one"])
    assert "nan" not in drawn
    assert "inf" not in drawn
    assert curves_svg(Curves("loss", {"one": [(1, math.nan)]}), ["one"]) == ""


def test_the_recipe_on_the_page_is_the_runs_own(run, run_cli, tmp_path):
    run_cli("report", run, "--markdown", tmp_path / "p.md")
    said, commands = re.findall("```\n(.*?)```", (tmp_path / "p.md").read_text(), re.DOTALL)
    (tmp_path / "again.yaml").write_text(said)
    assert load_recipe(str(tmp_path / "again.yaml")) == load_recipe(str(run / "recipe.yaml"))
    assert commands == "topiclora train --recipe recipe.yaml --out again\ntopiclora eval --run again\n"


def test_no_torch_is_imported_for_a_page(run):
    code = (
        "import sys\nfrom topiclora_cli.cli.app import main\n"
        f"try: main(['report', {str(run)!r}])\nexcept SystemExit as stop: assert not stop.code\n"
        "assert not {'torch', 'transformers', 'matplotlib'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("scheme", ["0", "1"], ids=["dark", "light"])
def test_chromium_draws_the_page_without_a_word_of_complaint(run, run_cli, tmp_path, width, scheme):
    run_cli("report", run)
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    command += [f"--blink-settings=preferredColorScheme={scheme}", f"--window-size={width},2000"]
    command += [f"--screenshot={tmp_path / 'page.png'}", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run([*command, f"file://{run / 'report.html'}"], capture_output=True, text=True, check=False)
    assert (tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")
    assert "CONSOLE" not in done.stderr


def test_a_report_opens_with_what_came_out_and_closes_with_versions(run, run_cli, tmp_path):
    run_cli("report", run, "--markdown", tmp_path / "p.md")
    headings = re.findall("^## (.+)$", (tmp_path / "p.md").read_text(), re.MULTILINE)
    assert headings[:2] == ["In short", "Training"]
    assert headings.index("What was asked") > headings.index("Evaluation `few`")
    assert headings[-1] == "Environment"


def sample(number, right, answered):
    arguments = {f"gen_args_{n}": {"arg_0": f"{number} + 1 =", "arg_1": f" {n}"} for n in range(3)}
    likelihoods = [[0.0 if n == answered else -1.0, False] for n in range(3)]
    row = {"doc_hash": str(number), "prompt_hash": "p", "target_hash": "t", "filter": "none", "metrics": ["acc"]}
    row |= {"acc": float(right == answered), "target": str(right), "arguments": arguments}
    return {**row, "resps": [[each] for each in likelihoods], "filtered_resps": likelihoods}


def test_answers_before_and_after_are_shown(tmp_path, run_cli):
    run = made_up(tmp_path / "one", task="adds")
    answered = {"base": [0, 0, 0, 0], "tuned": [1, 1, 1, 2]}
    for side, answers in answered.items():
        folder = run / "eval" / "few" / side
        folder.mkdir()
        rows = [sample(number, 0 if number == 3 else 1, answer) for number, answer in enumerate(answers)]
        name = "samples_adds_2026-01-01T00-00-00.jsonl"
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    run_cli("report", run, "--markdown", tmp_path / "p.md")
    text = (tmp_path / "p.md").read_text()
    assert text.count("| adds | ") == 3 + 1  # and its scores
    assert "| adds | 0 + 1 = | 1 | 0 | 1 (right) |" in text
    assert text.index("## Training") < text.index("## Answers before and after") < text.index("## Evaluation")
