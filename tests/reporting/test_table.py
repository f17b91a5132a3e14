"""One table says the same in every format, and lets no text of a cell out of its cell."""

import csv
import html.parser
import io

import pytest
from rich.console import Console

from topiclora_cli.reporting.drawn import as_rich
from topiclora_cli.reporting.table import (
    Cell,
    Column,
    Table,
    as_csv,
    as_html,
    as_latex,
    as_markdown,
    columns,
    facts,
    row,
)

TABLE = Table(
    "Scores",
    columns("task", "acc, % ↑", "difference", right=1),
    [
        row("boolq", "61.0 ± 1.2", "-2.0"),
        [Cell("a|b_c <i> & 50 %\\", indent=1), Cell("9.0"), Cell("-")],
        row("mean", "35.0", "+1.5", strong=True),
    ],
    note="95 % intervals.",
)


def in_terminal(table, width=80):
    console = Console(width=width, record=True, file=io.StringIO(), force_terminal=True)
    console.print(as_rich(table))
    return console.export_text(styles=False)


class Reader(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.rows, self.tags = [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th"}:
            self.rows[-1].append("")

    def handle_data(self, data):
        if self.rows and self.rows[-1] and data.strip():
            self.rows[-1][-1] += data


def test_terminal_shows_title_headings_rows_and_note_at_their_sides():
    text = in_terminal(TABLE)
    lines = [line.rstrip() for line in text.splitlines()]
    assert lines[0] == "Scores"
    assert lines[1].split("  ")[0].strip() == "task"
    assert "   a|b_c <i> & 50 %\\" in lines[3]
    assert lines[2].endswith("-2.0")
    assert lines[3].endswith(" -")
    assert lines[-1].strip() == "95 % intervals."


def test_terminal_reads_no_markup_in_any_text():
    text = in_terminal(Table("[b]title[/b]", [Column("[i]head")], [row("[red]name[/red]")], note="[u]note"))
    assert all(part in text for part in ("[b]title[/b]", "[i]head", "[red]name[/red]", "[u]note"))


def test_terminal_draws_a_shade_beside_its_number():
    shaded = Table("", columns("layer", "0", "1"), [[Cell("0"), Cell("4", shade=0.0), Cell("96", shade=1.0)]])
    text = in_terminal(shaded)
    assert "██  96" in text
    assert "      4" in text


def test_markdown_keeps_a_cell_within_its_bars():
    assert as_markdown(TABLE) == (
        "**Scores**\n\n"
        "| task | acc, % ↑ | difference |\n"
        "| --- | ---: | ---: |\n"
        "| boolq | 61.0 ± 1.2 | -2.0 |\n"
        "| - a\\|b_c \\<i> & 50 %\\ | 9.0 | - |\n"
        "| **mean** | **35.0** | **+1.5** |\n"
        "\n95 % intervals.\n"
    )


def test_html_escapes_every_text_and_names_rows_and_columns():
    reader = Reader()
    reader.feed(as_html(TABLE))
    assert reader.rows[0] == ["task", "acc, % ↑", "difference"]
    assert reader.rows[2] == ["a|b_c <i> & 50 %\\", "9.0", "–"]
    assert reader.rows[1][2] == "−2.0"
    assert "i" not in {tag for tag, _ in reader.tags}
    scopes = [attributes.get("scope") for tag, attributes in reader.tags if tag == "th"]
    assert scopes == ["col"] * 3 + ["row"] * 3


def test_csv_reads_back_as_the_cells():
    read = list(csv.reader(io.StringIO(as_csv(TABLE))))
    assert read == [["task", "acc, % ↑", "difference"], *([cell.text for cell in cells] for cells in TABLE.rows)]


def test_latex_escapes_what_it_would_read_as_a_command():
    text = as_latex(TABLE)
    assert "\\begin{tabular}{lrr}\n\\toprule\ntask & acc, \\% $\\uparrow$ & difference \\\\\n\\midrule\n" in text
    assert "boolq & 61.0 $\\pm$ 1.2 & $-$2.0 \\\\" in text
    assert "\\hspace{1em}a$|$b\\_c $<$i$>$ \\& 50 \\%\\textbackslash{} & 9.0 & - \\\\" in text
    assert "\\textbf{mean} & \\textbf{35.0} & \\textbf{+1.5} \\\\\n\\bottomrule" in text


def test_facts_have_no_headings_in_any_format_that_can_do_without():
    table = facts("Graph", [("topics", "52")])
    assert "<thead>" not in as_html(table)
    assert "midrule" not in as_latex(table)
    assert as_csv(table) == "topics,52\n"
    assert in_terminal(table).splitlines()[1].split() == ["topics", "52"]


def test_a_row_of_another_length_is_refused():
    with pytest.raises(ValueError, match="'Scores' needs 2 cells"):
        Table("Scores", [Column("a"), Column("b")], [row("1")])


def test_long_names_are_broken_in_the_terminal_and_lose_nothing():
    names = ["a_group_of_tasks_and_its_part_one", "a_group_of_tasks_and_its_part_two"]
    text = in_terminal(Table("", columns("task", "score", right=1), [row(name, "61.0") for name in names]), width=24)
    assert "…" not in text
    # All of the names but their line breaks.
    assert "".join(names) in "".join(text.replace("61.0", "").split())


NAMES = ["bigbench_logical_deduction_five_objects", "bigbench_tracking_shuffled_objects_seven_objects"]
WIDE = Table(
    "Scores",
    columns("task", "metric", "n", "base", "tuned", "difference", right=2),
    [
        row(name, "exact_match (flexible-extract), % ↑", "250", "41.2 ± 3.1", "43.6 ± 3.1", "+2.4 ± 4.4")
        for name in NAMES
    ],
    note="Errors are standard errors.",
)


@pytest.mark.parametrize("width", [70, 80, 100, 120, 200])
def test_names_and_values_are_whole_however_narrow_the_terminal(width):
    text = in_terminal(WIDE, width)
    assert max(map(len, text.splitlines())) <= width
    assert all(name in text for name in NAMES)
    assert text.count("+2.4 ± 4.4") == text.count("43.6 ± 3.1") == 2
    assert text.count("Scores") == text.count("Errors are standard errors.") == 1
    # Values stand in lines that say of which task they are.
    assert all(any(name in line for name in NAMES) for line in text.splitlines() if "+2.4" in line)


def test_a_table_that_has_room_stays_in_one(capsys):
    assert len(in_terminal(WIDE, 200).splitlines()) == 5


@pytest.mark.parametrize("number", [3, 7, 8])
def test_words_are_broken_nowhere_and_what_is_left_over_goes_to_long_texts(number):
    texts = ["hierarchical", "non-linearity, and more words than there is room for", *["seven77"] * (number - 2)]
    table = Table("", columns(*(f"c{i}" for i in range(number))), [row("a-long-name", *texts[:-1]), row(*texts)])
    text = in_terminal(table, 80)
    words = {word for line in text.splitlines() for word in line.split()}
    assert {"a-long-name", "hierarchical", "non-linearity,", "seven77"} <= words
    assert max(map(len, text.splitlines())) <= 80


def test_what_is_longer_than_the_terminal_is_folded():
    text = in_terminal(Table("", columns("a", "b"), [row("x" * 100, "y")]), 60)
    assert text.count("x") == 100
