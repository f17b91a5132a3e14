"""Rows of a file as the file has them: no type is guessed, nothing is rounded, and what cannot be read is an error.

A CSV file holds text alone. JSON says itself what is a number and what is text, row by row. Parquet has types.
"""

import csv
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet

from topiclora_cli.data.written import Cell, Number

Rows = Iterator[dict[str, Any]]
KINDS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
_LONGEST_CELL = 2**31 - 1
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class UnreadableError(ValueError):
    """A file that is not what its name says; `hint` says what to do."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def read_table(path: Path, kind: str, *, delimiter: str | None = None) -> Rows:
    """The rows of a file of one of KINDS; raises UnreadableError or OSError, also while they are read.

    delimiter: what parts the cells of a CSV file; None is a comma, or, where the header has none, a semicolon or tab.
    """
    if kind == "parquet":
        return _parquet_rows(path)
    rows = _csv_rows(path, delimiter) if kind == "csv" else _json_rows(path)
    return _in_utf8(path, rows)


def _in_utf8(path: Path, rows: Rows) -> Rows:
    try:
        yield from rows
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise UnreadableError(
            f"it is not UTF-8: byte 0x{byte:02x}",
            f"Convert it first, from Latin-1 for example: iconv -f latin1 -t utf-8 {path.name} > new.csv",
        ) from None


def _csv_rows(path: Path, delimiter: str | None) -> Rows:
    """Cells by the names in the header, without white space around names; nameless columns and empty lines are left
    out, and an empty or absent cell is None.
    """
    csv.field_size_limit(_LONGEST_CELL)
    with path.open(encoding="utf-8-sig", newline="") as file:
        if delimiter is None:
            start = file.readline()
            file.seek(0)
            delimiter = "," if "," in start else next((mark for mark in ";\t" if mark in start), ",")
        lines = csv.reader(file, delimiter=delimiter, strict=True)
        try:
            header = [name.strip() for name in next(lines, [])]
            if again := [name for name, count in Counter(header).items() if name and count > 1]:
                raise UnreadableError(f"it has two columns called {again[0]!r}", "Rename or remove one of them.")
            for cells in lines:
                if len(cells) > len(header):
                    raise UnreadableError(
                        f"line {lines.line_num} has {len(cells)} cells, the header {len(header)}",
                        "Put cells that hold the delimiter in double quotes.",
                    )
                if cells:
                    cells += [""] * (len(header) - len(cells))
                    yield {name: Cell(cell) if cell else None for name, cell in zip(header, cells, strict=True) if name}
        except csv.Error as error:
            raise UnreadableError(f"line {lines.line_num}: {error}", "Mend the quotes of that line.") from None


def _json_rows(path: Path) -> Rows:
    """The objects of a list, or one of every line."""
    decoder = json.JSONDecoder(parse_float=Number, parse_constant=Number, object_pairs_hook=_object)
    with path.open(encoding="utf-8-sig") as file:
        start = next((line.lstrip() for line in file if line.strip()), "")
        file.seek(0)
        if start.startswith("["):
            for number, value in enumerate(_decoded(decoder, file.read(), ""), 1):
                yield _checked(value, f"element {number}")
            return
        for number, line in enumerate(file, 1):
            if line.strip():
                yield _checked(_decoded(decoder, line, f"line {number}: "), f"line {number}")


def _decoded(decoder: json.JSONDecoder, text: str, place: str) -> Any:
    try:
        value = decoder.decode(text)
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()  # half a character is no text
        return value
    except (ValueError, RecursionError) as error:
        raise UnreadableError(
            f"{place}{error}", "Write one JSON object a line, or, in a .json file, a list of objects."
        ) from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        again = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"an object has the key {again!r} twice")
    return made


def _checked(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UnreadableError(f"{place} is no object: {str(value)[:40]!r}", "Every row is an object of columns.")
    return value


def _parquet_rows(path: Path) -> Rows:
    for batch in pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=1_000):
        yield from batch.to_pylist()
