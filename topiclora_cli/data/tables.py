"""Rows of a file as the file has them: no type is guessed, nothing is rounded, and what cannot be read is an error.

A CSV file holds text alone. JSON says itself what is a number and what is text, row by row. Parquet has types.
"""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from topiclora_cli.data.written import Cell, Number

KINDS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
PACKED = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
_LONGEST_CELL = 2**31 - 1
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class Record(dict[str, Any]):
    """A row by column, which knows the `number` of its line, element or row (`unit`) in its `file`, if it is one's."""

    __slots__ = ("file", "number", "unit")

    def __init__(self, values: Iterable[tuple[str, Any]] | dict[str, Any], unit: str, number: int) -> None:
        super().__init__(values)
        self.unit, self.number = unit, number
        self.file = ""

    @property
    def place(self) -> str:
        """Where the row stands, for messages: "chats.jsonl, line 3", the file as seen from here."""
        path = Path(self.file)
        seen = str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else self.file
        return ", ".join(filter(None, (seen, f"{self.unit} {self.number}")))


Rows = Iterator[Record]


class UnreadableError(ValueError):
    """A file that is not what its name says; `hint` says what to do."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def read_table(path: Path, kind: str, *, delimiter: str | None = None) -> Rows:
    """The rows of a file of one of KINDS; raises UnreadableError or OSError, also while they are read.

    Text is unpacked as it is read where the file's name ends as one of PACKED. delimiter: what parts the cells of a CSV
    file; None is a comma, or, where the header has none, a semicolon or tab.
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
        code, name = ("utf-16", "UTF-16") if error.object[:2] in _UTF16 else ("latin1", "Latin-1")
        raise UnreadableError(
            f"it is not UTF-8: byte 0x{byte:02x}",
            f"Convert it first, from {name} for example: iconv -f {code} -t utf-8 {path.name} > new{path.suffix}",
        ) from None


def _text(path: Path, *, newline: str | None = None) -> io.TextIOWrapper:
    packing = PACKED.get(path.suffix)
    file = path.open("rb") if packing is None else io.BufferedReader(_Unpacked(path, packing))
    return io.TextIOWrapper(file, encoding="utf-8-sig", newline=newline)


class _Unpacked(io.RawIOBase):
    """What a packed file holds, as bytes in their order."""

    def __init__(self, path: Path, packing: str) -> None:
        self._stream = pyarrow.input_stream(str(path), compression=packing)

    def readable(self) -> bool:
        """It can be read from."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer; returns how many bytes there were."""
        try:
            found = self._stream.read(len(buffer))
        except OSError as error:
            raise UnreadableError(
                f"it cannot be unpacked: {error}", "Fetch or pack it again; a name must end as what it holds is packed."
            ) from None
        buffer[: len(found)] = found
        return len(found)


def _csv_rows(path: Path, delimiter: str | None) -> Rows:
    """Cells by the names in the header, without white space around names; nameless columns and empty lines are left
    out, and an empty or absent cell is None.
    """
    csv.field_size_limit(_LONGEST_CELL)
    if delimiter is None:
        with _text(path, newline="") as file:
            start = file.readline()
        delimiter = "," if "," in start else next((mark for mark in ";\t" if mark in start), ",")
    with _text(path, newline="") as file:
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
                    named = [pair for pair in zip(header, cells, strict=True) if pair[0]]
                    values = [(name, Cell(cell) if cell else None) for name, cell in named]
                    yield Record(values, "line", lines.line_num)
        except csv.Error as error:
            raise UnreadableError(f"line {lines.line_num}: {error}", "Mend the quotes of that line.") from None


def _json_rows(path: Path) -> Rows:
    """The objects of a list, or one of every line."""
    decoder = json.JSONDecoder(parse_float=Number, parse_constant=Number, object_pairs_hook=_object)
    with _text(path) as file:
        start = next((line.lstrip() for line in file if line.strip()), "")
    with _text(path) as file:
        if start.startswith("["):
            for number, value in enumerate(_decoded(decoder, file.read(), ""), 1):
                yield _checked(value, "element", number)
            return
        for number, line in enumerate(file, 1):
            if line.strip():
                yield _checked(_decoded(decoder, line, f"line {number}: "), "line", number)


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


def _checked(value: Any, unit: str, number: int) -> Record:
    if not isinstance(value, dict):
        raise UnreadableError(
            f"{unit} {number} is no object: {str(value)[:40]!r}", "Every row is an object of columns."
        )
    return Record(value, unit, number)


def _parquet_rows(path: Path) -> Rows:
    batches = pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=1_000)
    for number, row in enumerate((row for batch in batches for row in batch.to_pylist()), 1):
        yield Record(row, "row", number)
