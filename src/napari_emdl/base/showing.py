"""How signals and results show themselves in a notebook and turn into tables.

Nothing here draws: the room that does (`exporting`) registers itself, so that this room needs neither matplotlib nor pandas.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from matplotlib.figure import Figure


#: Colours that keep apart for colour-blind eyes as well (Okabe and Ito, 2008).
PALETTE = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#D55E00", "#CC79A7", "#0072B2", "#BBBBBB")


def species_colour(index: int) -> str:
    """Colour of a species of columns by its index, the same in window and figure."""
    return PALETTE[index % len(PALETTE)]


class Shower(Protocol):
    """Draws and converts signals and results."""

    def figure(self, thing: Any, **options: Any) -> Figure:
        """Figure of a result."""

    def at(self, thing: Any, position: tuple[int, ...], signal: Any) -> Figure:
        """Figure of one pattern or frame, with its peaks where `thing` has peaks."""

    def html(self, thing: Any) -> str:
        """Shape, units and a thumbnail."""

    def dataframe(self, thing: Any) -> pd.DataFrame:
        """One row a peak, position or site and frame."""

    def xarray(self, thing: Any) -> xr.Dataset | xr.DataArray:
        """Labelled arrays with units."""


_LOADERS: list[Callable[[], Shower]] = []


def register(load: Callable[[], Shower]) -> None:
    """Name what draws; it is loaded when something is first shown."""
    _LOADERS[:] = [load]


def shower() -> Shower:
    """What draws."""
    return _LOADERS[0]()


class Shown:
    """Something that shows itself in a notebook."""

    def _repr_html_(self) -> str:
        return shower().html(self)

    def show(self, *position: int, signal: Any = None) -> Figure:
        """Figure of one pattern or frame, with its peaks where there are any.

        Parameters
        ----------
        position
            Scan row and col, or frame; the middle one when left out.
        signal
            Datacube or movie the peaks were found in. None takes the one they were found in, or opens the file that the
            provenance names.

        Raises
        ------
        EmdlError
            For a position outside, or when the file is gone.
        """
        return shower().at(self, position, signal)

    def to_xarray(self) -> Any:
        """Labelled arrays: an :class:`xarray.DataArray` of a signal (lazy), an :class:`xarray.Dataset` of a result.

        Raises
        ------
        EmdlError
            When xarray is not installed.
        """
        return shower().xarray(self)


class ShownResult(Shown):
    """A result that shows itself in a notebook."""

    def plot(self, **options: Any) -> Figure:
        """Figure of the result, as the panels and `export` draw it.

        Parameters
        ----------
        options
            For strain the fields of :class:`napari_emdl.exporting.strainfigure.FigureStyle`, such as
            ``components=("exx",)``, ``limit_pct=2``, ``width_mm=85``; other results take none.
        """
        return shower().figure(self, **options)

    def to_dataframe(self) -> pd.DataFrame:
        """Table with units in the column names: one row a peak, a scan position, or a site in a frame.

        Raises
        ------
        EmdlError
            When pandas is not installed.
        """
        return shower().dataframe(self)
