"""Analyse frames while the microscope writes them; the end result is that of a batch run over the same frames."""

from __future__ import annotations

import bisect
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from napari_emdl.atoms.find.columns import find_columns, find_one, finder_attrs
from napari_emdl.atoms.find.finders import ColumnFinder
from napari_emdl.atoms.find.frames import frames_used
from napari_emdl.atoms.find.making import MOST_FRAMES, make_finder
from napari_emdl.atoms.find.moviefacts import check_movie
from napari_emdl.atoms.fit.occupancy import fit_occupancy
from napari_emdl.atoms.fit.result import Occupancy
from napari_emdl.atoms.live.arrivals import Arrivals, watch_place
from napari_emdl.base.errors import EmdlError
from napari_emdl.base.params import ColumnParams, OccupancyParams, RunParams
from napari_emdl.base.peaks import PeakTable
from napari_emdl.base.reading import read_json, read_npz
from napari_emdl.base.signals import Movie
from napari_emdl.io.sequence import natural_key
from napari_emdl.jobs.control import Control
from napari_emdl.jobs.provenance import provenance
from napari_emdl.workflow.partial import PartialPeaks

POLL_S = 0.2
#: the rolling occupancy is of so many frames, and made again at most this often
ROLLING_FRAMES, ROLLING_S = 400, 2.0
#: numbers of frames at which contrast, threshold and number of frames are chosen again
REVIEWS = (3, MOST_FRAMES)


@dataclass(frozen=True)
class LiveState:
    """What a live view shows after each frame.

    Attributes
    ----------
    done
        Frames analysed.
    backlog
        Frames that are there and not analysed yet.
    waiting
        Frames that are still being written.
    broken
        Files that never became readable.
    latest
        Columns of the newest frame (shape (1,)), and its key.
    key
        Name of the newest frame.
    rolling
        Occupancy of the last frames from their detections, None until there is one; the final one also uses the evidence.
    note
        Why there is no rolling occupancy, "" when there is one.
    """

    done: int
    backlog: int
    waiting: int
    broken: tuple[str, ...]
    latest: PeakTable
    key: str
    rolling: Occupancy | None
    note: str = ""


@dataclass
class _Session:
    """What a watch keeps between frames."""

    arrivals: Arrivals
    columns: ColumnParams
    occupancy: OccupancyParams
    run: RunParams
    store: Path | None
    peaks: PartialPeaks = field(default_factory=lambda: PartialPeaks((0,), growing=True))
    places: dict[str, int] = field(default_factory=dict)  # key of a frame -> its place in `peaks`, in order of arrival
    keys: list[str] = field(default_factory=list)  # in the order of time
    finder: ColumnFinder | None = None
    attrs: dict[str, Any] = field(default_factory=dict)
    rolling: Occupancy | None = None
    rolling_at: float = -1e9
    note: str = ""

    def put(self, key: str, table: PeakTable) -> None:
        """Take in the columns of a frame."""
        if key not in self.places:
            self.places[key] = len(self.places)
            bisect.insort(self.keys, key, key=_in_time)
        self.peaks.put(self.places[key], table)

    def table(self, keys: list[str]) -> PeakTable:
        joined = self.peaks.select([self.places[key] for key in keys])
        joined.attrs = dict(self.attrs)
        return joined


def watch(
    folder: str | Path,
    output: str | Path | None = None,
    *,
    columns: ColumnParams | None = None,
    occupancy: OccupancyParams | None = None,
    run: RunParams | None = None,
    control: Control | None = None,
    max_frames: int | None = None,
    idle_s: float | None = None,
    on_update: Callable[[LiveState], None] | None = None,
) -> Occupancy:
    """Analyse frames as they arrive, until cancelled, `max_frames`, or nothing new for `idle_s`.

    Every frame is analysed, late rather than never: `LiveState.backlog` tells how many are waiting. Columns of each frame are
    kept in ``<output>.live`` as they are found, so that a watch that was stopped or killed goes on where it was
    (``run.resume``).

    Parameters
    ----------
    folder
        Folder of image files, Gatan in-situ tree, or a growing TIFF or MRC stack.
    output
        Result file, written at the end; None writes nothing.
    columns, occupancy, run
        Settings.
    control
        Cancel ends the watch and writes the result; progress tells frames done of frames there.
    max_frames, idle_s
        When to end.
    on_update
        Called after each frame in this thread.

    Returns
    -------
    Occupancy
        Equal to find_columns and fit_occupancy over the same frames.

    Raises
    ------
    EmdlError
        When no frame came, or a stopped watch is in the way.
    """
    control = control or Control()
    settings = columns or ColumnParams()
    store = None if output is None else Path(f"{output}.live")
    session = _Session(watch_place(folder), settings, occupancy or OccupancyParams(), run or RunParams(), store)
    _open_store(session, folder)
    stopped = _follow(session, control, max_frames, idle_s, on_update)
    if not session.places:
        raise EmdlError(f"no frame arrived in {folder}: check the path, or wait longer")
    result = _finish(session)
    if output is not None:
        _save(result, session, Path(output), keep=stopped)
    return result


def _in_time(key: str) -> tuple[Any, ...]:
    return natural_key(Path(key))


def _follow(
    session: _Session,
    control: Control,
    max_frames: int | None,
    idle_s: float | None,
    on_update: Callable[[LiveState], None] | None,
) -> bool:
    """Analyse until the end; True when cancelled."""
    queue: list[str] = []
    newest, polled = time.monotonic(), -np.inf
    while not control.cancelled:
        if not queue or time.monotonic() - polled > POLL_S:  # with frames at hand it can wait
            polled = time.monotonic()
            if fresh := [k for k in session.arrivals.poll() if k not in session.places]:
                queue = sorted(queue + fresh, key=_in_time)
            if fresh or session.arrivals.waiting:
                newest = polled
        if max_frames is not None and len(session.places) >= max_frames:
            return False
        if not queue:
            if idle_s is not None and time.monotonic() - newest > idle_s:
                return False
            time.sleep(POLL_S)
            continue
        key = queue.pop(0)
        _analyse(session, key)
        control.report(len(session.places), len(session.places) + len(queue), f"{len(queue)} frames waiting" if queue else "")
        if on_update is not None:
            # the picture may lag behind: it is made again only when there is time
            if not queue or time.monotonic() - session.rolling_at > 5 * ROLLING_S:
                _roll(session)
            a = session.arrivals
            on_update(
                LiveState(
                    len(session.places),
                    len(queue),
                    a.waiting,
                    tuple(a.broken),
                    session.table([key]),
                    key,
                    session.rolling,
                    session.note,
                )
            )
    return True


def _analyse(session: _Session, key: str) -> None:
    frame = session.arrivals.frame(key)
    keys = [*session.keys, key]
    if session.finder is None:
        movie = session.arrivals.movie([key])
        check_movie(movie)
        session.finder = make_finder(movie, session.columns, session.run)
        session.attrs = finder_attrs(movie, session.finder, session.columns)
        session.attrs["frame_shape"] = list(frame.shape[-2:])
    elif len(keys) in REVIEWS and list(frame.shape[-2:]) == session.attrs["frame_shape"]:
        _review(session, keys)
    elif list(frame.shape[-2:]) != session.attrs["frame_shape"]:
        shape = tuple(session.attrs["frame_shape"])
        raise EmdlError(f"frame {key} is {frame.shape[-2:]}, those before are {shape}: watch one movie at a time")
    if frames_used(session.finder) > 1:
        newest = session.arrivals.movie(keys[-MOST_FRAMES:])
        table = find_one(newest, session.finder, session.columns, newest.n_frames - 1)
    else:
        table = session.finder.find(frame[None])
    session.put(key, table)
    if session.store is not None:
        _keep(session.store, key, table, session.attrs)


def _review(session: _Session, keys: list[str]) -> None:
    """By now several frames tell more of contrast and threshold, and of how many frames' help is needed."""
    movie = session.arrivals.movie(keys)
    session.finder = make_finder(movie, session.columns, session.run)
    session.attrs = {**finder_attrs(movie, session.finder, session.columns), "frame_shape": session.attrs["frame_shape"]}


def _roll(session: _Session) -> None:
    """Occupancy of the last frames from their detections alone: quick, and good enough to look at."""
    if time.monotonic() - session.rolling_at < ROLLING_S:
        return
    session.rolling_at = time.monotonic()
    keys = session.keys[-ROLLING_FRAMES:]
    try:
        session.rolling, session.note = fit_occupancy(session.table(keys), params=session.occupancy), ""
    except EmdlError as error:
        session.note = str(error)


def _finish(session: _Session) -> Occupancy:
    """The batch run over all frames, with the columns that are there already."""
    keys = session.keys
    movie = session.arrivals.movie(keys)
    if session.finder is None:  # all frames were found in a stopped watch
        session.finder = make_finder(movie, session.columns, session.run)
        session.attrs = finder_attrs(movie, session.finder, session.columns)
    table = _final_columns(session, movie)
    result = fit_occupancy(table, movie, params=session.occupancy, run=session.run, finder=session.finder)
    result.attrs["provenance"] = _record(session, movie)
    for name in session.arrivals.broken:
        result.attrs["notes"].append(f"{name} could not be read and is left out")
    return result


def _final_columns(session: _Session, movie: Movie) -> PeakTable:
    """Columns of all frames as the batch run finds them: those there are, unless all frames together ask for another finder."""
    assert session.finder is not None
    before, completed = frames_used(session.finder), getattr(session.finder, "completes", False)
    if movie.n_frames > 1 and session.finder.info.method == "network":
        finder = make_finder(movie, session.columns, session.run)
        attrs = finder_attrs(movie, finder, session.columns)
        same = before == frames_used(finder) == 1 and attrs["contrast"] == session.attrs.get("contrast")
        same &= completed == getattr(finder, "completes", False)
        session.finder, session.attrs = finder, {**attrs, "frame_shape": session.attrs["frame_shape"]}
        if not same:
            return find_columns(movie, params=session.columns, run=session.run.model_copy(update={"resume": None}))
    return session.table(session.keys)


def _record(session: _Session, movie: Movie) -> dict[str, Any]:
    assert session.finder is not None
    info = session.finder.info
    return provenance(
        {"columns": session.columns.model_dump(mode="json"), "occupancy": session.occupancy.model_dump(mode="json")},
        movie,
        info.network,
        info.provider,
        run=session.run.model_dump(mode="json"),
        caveats=info.caveats.to_json(),
    )


def _save(result: Occupancy, session: _Session, output: Path, keep: bool) -> None:
    from napari_emdl.io import save

    save(result, output)
    if not keep and session.store is not None:
        shutil.rmtree(session.store, ignore_errors=True)


def _open_store(session: _Session, folder: str | Path) -> None:
    """Take up what a stopped watch of the same folder with the same settings has left."""
    if session.store is None:
        return
    job = {"folder": str(Path(folder).resolve()), "columns": session.columns.model_dump(mode="json")}
    about = session.store / "watch.json"
    if session.store.exists():
        if session.run.resume is None:
            raise EmdlError(
                f"a watch that was stopped has left {session.store.name}: go on with `resume=True` or start again with "
                "`resume=False`"
            )
        if session.run.resume is False:
            shutil.rmtree(session.store)
        elif not about.exists() or read_json(about) != job:
            raise EmdlError(f"{session.store.name} is of another folder or other settings: start again with `resume=False`")
    session.store.mkdir(parents=True, exist_ok=True)
    about.write_text(json.dumps(job))
    for file in session.store.glob("*.npz"):
        columns = read_npz(file)
        facts = json.loads(str(columns.pop("facts")))
        count = len(next(iter(columns.values())))
        session.put(facts["key"], PeakTable((1,), [0, count], columns))
        # contrast chosen by "auto" must not change half way
        session.attrs = facts["attrs"]
    if session.attrs:
        session.columns = session.columns.model_copy(update={"contrast": session.attrs["contrast"]})


def _keep(store: Path, key: str, table: PeakTable, attrs: dict[str, Any]) -> None:
    """One small file a frame, there whole or not at all."""
    name = hashlib.sha1(key.encode()).hexdigest()[:20]
    part = store / f"{name}.tmp"
    with open(part, "wb") as file:
        facts = np.array(json.dumps({"key": key, "attrs": attrs}))
        arrays: dict[str, Any] = {name: table.column(name) for name in table.fields}
        np.savez(file, facts=facts, **arrays)
    os.replace(part, store / f"{name}.npz")
