"""Training text: from the sources of a recipe to token ids, one step a file.

sources (rows of a table) -> examples (rows as prompt and completion) -> clean (what to leave out) -> mixing -> encode.
`reading` joins the first three for one source, `load` the first four for all; `stream` is all of it for sets larger
than memory.
"""

from topiclora_cli.data.draw import draw
from topiclora_cli.data.encode import Encoded, encode_rows
from topiclora_cli.data.load import Data, load_data, load_rows
from topiclora_cli.data.row import Row

__all__ = ["Data", "Encoded", "Row", "draw", "encode_rows", "load_data", "load_rows"]
