"""The pixel size of a movie: what it is and where it comes from; where it is not known, the panel asks for it here."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QSignalBlocker
from qtpy.QtWidgets import QAbstractSpinBox, QFrame, QVBoxLayout, QWidget

from napari_emdl.atoms.find.pixelguess import GUESSED, PixelGuess, guess_pixel_size
from napari_emdl.base.params import ColumnParams, RunParams
from napari_emdl.base.signals import Movie
from napari_emdl.gui.atoms.session import AtomsSession
from napari_emdl.gui.atoms.widgets import NO_MOVIE, button, line, row
from napari_emdl.gui.kit.forms import ParamsForm
from napari_emdl.gui.kit.worker import Latest, error_line
from napari_emdl.jobs.control import Control

NO_PIXEL = (
    "<b>The pixel size is unknown.</b> Type it here, or measure it from a lattice spacing you know. "
    "Columns are looked for by their size in ångström: none are found before. If you need places in pixels only, let it be "
    "guessed."
)
NO_GUESS = "No lattice of columns was seen from which the pixel size could be guessed. Type it here, or measure it."
GUESS, GUESSING = "Guess", "Guessing…"
NOT_KNOWN = "not known"
#: The form shows four decimals; a smaller difference was not typed by anyone.
PIXEL_ROUNDING_A = 6e-5
ASKS = "#pixel_box { border: 1px solid #d9822b; border-radius: 3px; }"


class PixelBox(QFrame):
    """Hint, field, *Measure…* and *Guess*; framed while the size is not known.

    Parameters
    ----------
    session
        Whose movie it is.
    asks_only
        Hidden once the pixel size is known, or while nothing is open.
    """

    def __init__(self, session: AtomsSession, asks_only: bool = False, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("pixel_box")
        self.session, self.asks_only = session, asks_only
        self.hint = line(NO_MOVIE, "hint")
        self.form = ParamsForm(ColumnParams, include=("pixel_size_A",))
        self.measure_button = button(
            "Measure…", "Pick a known lattice spacing in the Fourier transform of this frame", "measure_pixel", self.measure
        )
        self.guess_button = button(
            GUESS, "Take the pixel size at which most columns are seen; it may be off by half", "guess_pixel", self.guess
        )
        self.guessing = Latest(_guess, "guess of the pixel size", parent=self)
        self.guessing.done.connect(self._guessed)
        self.guessing.failed.connect(self._not_guessed)
        field: Any = self.form.editors["pixel_size_A"]
        field.setButtonSymbols(QAbstractSpinBox.ButtonSymbols.NoButtons)  # nobody steps to a pixel size
        self._usual = str(self.form.editors["pixel_size_A"].specialValueText())
        self.source = line(name="pixel_source", dim=True)
        column = QVBoxLayout(self)
        column.setSpacing(4)
        column.addWidget(self.hint)
        column.addWidget(row(self.form, self.measure_button, self.guess_button, stretch=(1,)))
        column.addWidget(self.source)
        session.pixel_changed.connect(self.refresh)
        session.movie_changed.connect(self.refresh)
        self.refresh()

    def refresh(self) -> None:
        """Show the pixel size of the movie, or ask for it."""
        movie = self.session.movie
        known = movie is not None and movie.pixel_A is not None
        asks = movie is not None and not known
        editor: Any = self.form.editors["pixel_size_A"]
        editor.setSpecialValueText(NOT_KNOWN if asks else self._usual)
        with QSignalBlocker(self.form):
            self.form.put(ColumnParams(pixel_size_A=movie.pixel_A if movie is not None else None))
        self.hint.setVisible(not known)
        self.hint.setText(NO_MOVIE if movie is None else NO_PIXEL)
        text = self.session.pixel_text()
        self.source.setText(text)
        self.source.setVisible(bool(text))
        for widget in (self.form, self.measure_button):
            widget.setEnabled(movie is not None)
        self.guess_button.setVisible(asks)
        self._ready_to_guess()
        self.setStyleSheet(ASKS if asks else "")
        edge = 6 if asks else 0
        layout = self.layout()
        assert layout is not None
        layout.setContentsMargins(edge, edge, edge, edge)
        if self.asks_only:
            self.setVisible(asks)

    def typed_A(self) -> float | None:
        """What was typed, None where it is what is known already."""
        typed, movie = self.form.values()["pixel_size_A"], self.session.movie
        new = typed and movie is not None and abs(typed - (movie.pixel_A or 0.0)) > PIXEL_ROUNDING_A
        return float(typed) if new else None

    def guess(self) -> None:
        """Look for the pixel size at which most columns are seen, in the background."""
        if self.session.movie is not None:
            self.guess_button.setEnabled(False)
            self.guess_button.setText(GUESSING)
            settings = self.session.data.settings
            self.guessing.submit(self.session.movie, settings.columns, settings.run)

    def _guessed(self, guess: PixelGuess | None, args: tuple[Any, ...]) -> None:
        self._ready_to_guess()
        if args[0] is not self.session.movie:
            return
        if guess is None:
            self.hint.setText(NO_GUESS)
        else:
            self.session.use_pixel_A(guess.pixel_A, GUESSED)

    def _not_guessed(self, error: BaseException) -> None:
        self._ready_to_guess()
        self.hint.setText(error_line(error))

    def _ready_to_guess(self) -> None:
        self.guess_button.setText(GUESS)
        self.guess_button.setEnabled(True)

    def measure(self) -> None:
        """Open the Fourier transform of the current frame to pick a known spacing in."""
        from napari_emdl.gui.atoms.pixelsize import PixelSizeDialog

        if self.session.movie is not None:
            dialog = PixelSizeDialog(self.session.movie, self.session.frame, self)
            dialog.measured.connect(lambda pixel_A: self.session.use_pixel_A(pixel_A, "measured"))
            dialog.open()


def _guess(control: Control, movie: Movie, params: ColumnParams, run: RunParams) -> PixelGuess | None:
    """Guess in a thread of its own."""
    return guess_pixel_size(movie, params, run, control)
