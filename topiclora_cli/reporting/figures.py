"""Pictures drawn without pyplot, so that nothing of the caller's plotting state is touched."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(width: float, height: float, *, ground: str = "white") -> "Figure":
    """An empty picture of so many inches on a ground of that colour, that lays itself out."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor=ground)
    FigureCanvasAgg(figure)
    return figure


def save_png(figure: "Figure", path: str | Path, *, dpi: int = 110) -> Path:
    """Write the picture as a PNG, in a folder that is made if need be, and return where."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=dpi, format="png")
    return path
