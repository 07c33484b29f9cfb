"""What opening a file had to say, and what seems to be opened as the wrong thing: in the panel, with a button that helps."""

from __future__ import annotations

import contextlib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError
from qtpy.QtCore import QObject

from napari_emdl.base.params import OpenParams
from napari_emdl.base.signals import Datacube, Movie, in_memory
from napari_emdl.base.wording import options_in
from napari_emdl.gui.kit import session
from napari_emdl.gui.kit.notices import Notices, dismiss, tell
from napari_emdl.gui.kit.opening import add_layers, ask_how, work
from napari_emdl.gui.kit.signals import LayerTuple, signal_layers
from napari_emdl.gui.kit.worker import Latest, error_line

Opened = Datacube | Movie

OTHERWISE = "Open otherwise…"

PATTERN = "{name} looks like a diffraction pattern, not like an image of atoms."
PATTERNS = "The frames of {name} look like diffraction patterns, not like images of atoms."
COLOURS = "napari opened {name} as a picture in colours, which is not analysed."
IMAGE = "{name} looks like an image, not like a diffraction pattern."


class Suggestion(QObject):
    """Looks at what a panel shows, in a worker, and says so where it looks like something else.

    Parameters
    ----------
    viewer
        napari viewer.
    notices
        Where it is said.
    """

    def __init__(self, viewer: Any, notices: Notices, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.viewer, self.notices = viewer, notices
        self.signal: Opened | None = None
        self._layer: Any = None
        self.line = ""
        self.notes: tuple[str, ...] = ()
        self._read: set[tuple[str, str]] = set()  # file and line that the user closed: going back to it says no more
        self._latest = Latest(_kind, "looking at the picture", parent=self)
        self._latest.done.connect(self._on_kind)
        viewer.layers.events.inserted.connect(self._on_inserted)

    def follow(self, signal: Opened | None, layer: Any = None) -> None:
        """Another file is shown, by `layer` where it has no tag; what its own units say is not doubted."""
        if signal is self.signal:
            return
        self._remember_closed()
        self.signal, self._layer = signal, layer
        self._latest.drop()
        if self.line:
            self.notices.dismiss(self.line)
            self.line = ""
        self._tell_notes(signal)
        if signal is not None and not _told(signal) and (not isinstance(signal, Datacube) or signal.n_patterns == 1):
            self._latest.submit(signal)

    def _remember_closed(self) -> None:
        """Lines about the file shown so far that the user has closed."""
        closed = {line for panel in session.panels(self.viewer) for line in _closed_in(panel)}
        self._read |= {(_file_of(self.signal), line) for line in (*self.notes, self.line) if line in closed}

    def _was_read(self, line: str) -> bool:
        return (_file_of(self.signal), line) in self._read

    @property
    def busy(self) -> bool:
        """True while it looks."""
        return self._latest.busy

    def _on_inserted(self, event: Any) -> None:
        """A screenshot that was dropped and given to napari's own reader: it has its colours, our panels take the grey."""
        layer = event.value
        path = getattr(layer.source, "path", None)
        if getattr(layer, "rgb", False) and not session.tag_of(layer) and path and Path(path).is_file():
            offer = ("Open it to analyse", partial(_open_grey, self.viewer, layer, str(path)))
            tell(self.viewer, COLOURS.format(name=layer.name), offer)

    def _on_kind(self, kind: str, args: Any) -> None:
        signal: Opened = args[0]
        if signal is not self.signal or not kind or (kind == "pattern") == isinstance(signal, Datacube):
            return
        several = not isinstance(signal, Datacube) and signal.n_frames > 1
        text = IMAGE if isinstance(signal, Datacube) else PATTERNS if several else PATTERN
        self.line = text.format(name=signal.name or "This")
        if self._was_read(self.line):
            return
        title = "Open as an image" if isinstance(signal, Datacube) else "Open as 4D-STEM"
        can = signal.path or not several  # the scan of a stack in memory cannot be asked for
        self.notices.tell(self.line, (title, self.as_the_other) if can else None)

    def as_the_other(self) -> None:
        """Open what is shown as the other thing: an image as a pattern, a pattern as an image; whoever sees it knows best."""
        signal = self.signal
        if signal is None:
            self.notices.tell("open a file first")
        elif isinstance(signal, Datacube) and signal.n_patterns > 1:
            self.notices.tell("a scan of several patterns is no image: Open, File, with options takes one of its arrays")
        elif not isinstance(signal, Datacube) and signal.n_frames > 1 and not signal.path:
            self.notices.tell("this movie lies in memory: save it first, then its file can be opened as a scan")
        else:
            self._reopen(signal)

    def _tell_notes(self, signal: Opened | None) -> None:
        """What the file was taken for where it leaves that open, with the dialog that takes it otherwise."""
        said = () if signal is None else tuple(f"{signal.name or 'This file'}: {note}." for note in signal.notes)
        if said == self.notes:  # the same file, with a pixel size that was typed
            return
        for line in self.notes:
            dismiss(self.viewer, line)
        self.notes = said
        if signal is None:
            return
        there = self._place(signal)
        for line, note in reversed(tuple(zip(said, signal.notes, strict=True))):
            if self._was_read(line):
                continue
            otherwise = (OTHERWISE, partial(self._open_otherwise, signal, note))
            there.tell(line, otherwise if signal.path and any(options_in(note)) else None)

    def _place(self, signal: Opened) -> Notices:
        """The own panel, or that of diffusion where it lies before it: both show the same movie."""
        diffusion = session.registered(self.viewer, session.DIFFUSION)
        before = (
            isinstance(signal, Movie)
            and signal.n_frames > 1
            and diffusion is not None
            and not diffusion.visibleRegion().isEmpty()
        )
        return diffusion.notices if before else self.notices

    def _open_otherwise(self, signal: Opened, note: str) -> None:
        """Ask how the file is to be read, beginning with what its note proposes."""
        options = {**(signal.metadata.get("open_options") or {}), **proposed(note)}
        then = partial(_replace, self.viewer, signal, self._layer, [])
        ask_how(self.viewer, str(signal.path), "", OpenParams(**options), then=then)

    def _reopen(self, signal: Any) -> None:
        """Open the file as the other thing, in place of what it was taken for."""
        layer = self._layer
        if not isinstance(signal, Datacube) and signal.n_frames > 1 and signal.path:
            start = OpenParams(kind="stack")
            ask_how(self.viewer, signal.path, "", start, then=lambda: _replace(self.viewer, signal, layer, []))
            return
        job = work(lambda: signal_layers(_other(signal)), "opening")
        job.returned.connect(lambda layers: _replace(self.viewer, signal, layer, layers))
        job.failed.connect(lambda error: self.notices.tell(error_line(error)))
        job.start()

    def close(self) -> None:
        """Stop looking."""
        self.viewer.layers.events.inserted.disconnect(self._on_inserted)
        self._latest.close()


def _closed_in(panel: Any) -> set[str]:
    notices = getattr(panel, "notices", None)
    return notices.closed_by_user if isinstance(notices, Notices) else set()


def _file_of(signal: Opened | None) -> str:
    return "" if signal is None else signal.path or signal.name or ""


def proposed(note: str) -> dict[str, Any]:
    """Parameters of opening that a note gives with their values; of several for one, the first."""
    found: dict[str, Any] = {}
    for name, value in options_in(note):
        if name not in OpenParams.model_fields or name in found:
            continue
        given = tuple(value.split(",")) if "," in value else value
        with contextlib.suppress(ValidationError):
            found[name] = getattr(OpenParams.model_validate({name: given}), name)
    return found


def _open_grey(viewer: Any, layer: Any, path: str) -> None:
    """Open the file of a picture as we do, in place of the layer that napari made of it."""
    from napari_emdl.io import open as open_file

    def show(layers: list[LayerTuple]) -> None:
        if session.has_window(viewer):
            if layer in viewer.layers:
                viewer.layers.remove(layer)
            add_layers(viewer, layers)
            session.when_idle(partial(_open_panels, viewer))

    job = work(lambda: signal_layers(open_file(path)), "opening")
    job.returned.connect(show)
    job.failed.connect(lambda error: tell(viewer, error_line(error)))
    job.start()


def _kind(_control: Any, signal: Opened) -> str:
    from napari_emdl.diffraction.find.recognise import kind_of_picture

    return kind_of_picture(signal)


def _told(signal: Opened) -> bool:
    """True where units or the user say what it is."""
    known = signal.calibration.q_pixel_invA if isinstance(signal, Datacube) else signal.calibration.pixel_nm
    return known is not None


def _other(signal: Opened) -> Opened:
    """A pattern as an image, an image as a pattern: of the file where there is one."""
    from napari_emdl.io import open as open_file

    kind = "image" if isinstance(signal, Datacube) else "pattern"
    if signal.path:
        options = {k: v for k, v in (signal.metadata.get("open_options") or {}).items() if k not in ("kind", "axes")}
        opened: Opened = open_file(signal.path, kind, **options)
        return opened
    frame = np.asarray(signal.data[...]).reshape(signal.shape[-2:])
    if kind == "image":
        return in_memory(frame, "image", name=signal.name)
    return in_memory(frame[None, None], "datacube", name=signal.name)


def _replace(viewer: Any, signal: Any, shown: Any, layers: list[LayerTuple]) -> None:
    """Take the layer off, close the panels that have nothing to show any more, and show the file in its own."""
    if not session.has_window(viewer):
        return
    for layer in [layer for layer in viewer.layers if session.signal_of(layer) is signal or layer is shown]:
        viewer.layers.remove(layer)
    add_layers(viewer, layers)
    cube = isinstance(signal, Datacube)
    if not cube and not any(True for _ in session.layers_with_signal(viewer, "movie", "focal_series", "image")):
        for name in (session.COLUMNS, session.DIFFUSION):
            panel = session.registered(viewer, name)
            if panel is not None:
                session.remove_dock(viewer, panel)
    session.when_idle(partial(_open_panels, viewer))


def _open_panels(viewer: Any) -> None:
    """Panels of what is shown now."""
    shown = next((found for layer in reversed(viewer.layers) if (found := session.signal_of(layer)) is not None), None)
    if shown is None or not session.has_window(viewer):
        return
    session.open_panel(viewer, session.WORKSPACE if isinstance(shown, Datacube) else session.COLUMNS)
    if shown.kind == "movie" and session.registered(viewer, session.DIFFUSION) is None:
        session.open_panel(viewer, session.DIFFUSION).behind = True
