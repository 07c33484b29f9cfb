"""napari reader: datacubes, movies, images and result files as layers with units."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari.types import LayerData

#: Files somebody else reads better, whatever pattern matched.
_NOT_OURS = (".py", ".ipynb", ".txt", ".csv", ".md")

PathOrPaths = str | Sequence[str]


def get_reader(path: PathOrPaths) -> Callable[[PathOrPaths], list[LayerData]] | None:
    """Reader for `path`, or None when this is nothing for us. Looks at the name only: it is called for every file."""
    first = Path(path if isinstance(path, str) else path[0])
    if first.suffix.lower() in _NOT_OURS or not first.exists():
        return None
    return read_in_window


def read_in_window(path: PathOrPaths) -> list[LayerData]:
    """Layers of files; where there is a window, what cannot be opened is said on screen, and a dialog asks how to read it."""
    import napari

    from napari_emdl.base.errors import EmdlError
    from napari_emdl.gui import layers
    from napari_emdl.gui.kit import session

    viewer = napari.current_viewer()
    if viewer is None or not session.has_window(viewer):
        return read(path)
    layer_data: list[LayerData] = []
    for one in [path] if isinstance(path, str) else path:
        try:
            layer_data += layers.read_path(str(one))
        except (EmdlError, OSError, MemoryError) as error:  # the others open all the same
            from napari_emdl.gui.kit import opening  # with its dialog: a tenth of a second that few need

            how = {"make_layers": layers.dialog_layers, "then": layers.open_panels_soon}
            opening.refused(session.bare(viewer), str(one), error, **how)
    layers.open_panels_soon(layer_data)
    return layer_data or [(None,)]  # type: ignore[list-item]  # napari's word for "nothing to add"


def read(path: PathOrPaths) -> list[LayerData]:
    """Layers of one or several files or folders.

    Raises
    ------
    EmdlError
        With one line that says what cannot be opened and what to do.
    """
    from napari_emdl.gui import layers

    layer_data: list[LayerData] = []
    for one in [path] if isinstance(path, str) else path:
        layer_data += layers.read_path(str(one))
    layers.open_panels_soon()
    return layer_data
