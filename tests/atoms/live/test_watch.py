"""Live analysis: a thread writes frames, slowly and in halves, while they are analysed."""

from __future__ import annotations

import io
import struct
import threading
import time

import numpy as np
import pytest
import tifffile

import napari_emdl.atoms.live.arrivals as arrivals_module
from napari_emdl import load, open_movie
from napari_emdl.atoms.find.columns import find_columns
from napari_emdl.atoms.fit.occupancy import fit_occupancy
from napari_emdl.atoms.live.arrivals import FolderArrivals, watch_place
from napari_emdl.atoms.live.watch import watch
from napari_emdl.base.errors import EmdlError
from napari_emdl.base.params import ColumnParams, RunParams
from napari_emdl.jobs.control import Control
from napari_emdl.samples.atoms import blinking_movie

COLUMNS = ColumnParams(model="log", contrast="bright", pixel_size_A=0.12)


@pytest.fixture(scope="module")
def frames():
    return np.asarray(blinking_movie((12, 160, 160), 0)[0].data)


def tiff_bytes(frame):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, frame)
    return buffer.getvalue()


def write_slowly(folder, frames, first=0, pause_s=0.05):
    for t, frame in enumerate(frames, first):
        data = tiff_bytes(frame)
        with open(folder / f"frame_{t}.tif", "wb") as file:
            file.write(data[: len(data) // 2])
            file.flush()
            time.sleep(pause_s)
            file.write(data[len(data) // 2 :])


def batch(movie):
    return fit_occupancy(find_columns(movie, params=COLUMNS), movie)


def same(one, other):
    np.testing.assert_array_equal(one.sites_px, other.sites_px)
    np.testing.assert_array_equal(one.occupied, other.occupied)
    np.testing.assert_array_equal(one.p_occupied, other.p_occupied)


def test_watching_a_folder_gives_what_a_batch_run_gives(frames, tmp_path):
    folder, output = tmp_path / "frames", tmp_path / "live.h5"
    folder.mkdir()
    writer = threading.Thread(target=write_slowly, args=(folder, frames))
    writer.start()
    states = []
    result = watch(folder, output, columns=COLUMNS, max_frames=12, on_update=states.append)
    writer.join()
    assert [s.done for s in states] == list(range(1, 13))
    assert all(s.latest.shape == (1,) and s.latest.n_peaks > 10 for s in states)
    assert states[-1].rolling is not None
    same(result, batch(open_movie(folder)))
    same(load(output), result)
    assert not (tmp_path / "live.h5.live").exists()


def test_stop_and_go_on_without_loss(frames, tmp_path):
    folder, output = tmp_path / "frames", tmp_path / "live.h5"
    folder.mkdir()
    write_slowly(folder, frames[:7], pause_s=0)
    control = Control()
    first = watch(folder, output, columns=COLUMNS, control=control, on_update=lambda s: s.done == 5 and control.cancel())
    assert first.n_frames == 5 and output.exists()
    with pytest.raises(EmdlError, match="resume=True"):
        watch(folder, output, columns=COLUMNS, max_frames=12)
    with pytest.raises(EmdlError, match="other settings"):
        watch(folder, output, columns=COLUMNS.model_copy(update={"contrast": "dark"}), run=RunParams(resume=True))
    write_slowly(folder, frames[7:], first=7, pause_s=0)
    states = []
    second = watch(folder, output, columns=COLUMNS, run=RunParams(resume=True), max_frames=12, on_update=states.append)
    assert [s.done for s in states] == list(range(6, 13))
    same(second, batch(open_movie(folder)))


def test_growing_tiff(frames, tmp_path):
    path = tmp_path / "stack.tif"

    def write():
        with tifffile.TiffWriter(path) as file:
            for frame in frames:
                file.write(frame, contiguous=False)
                time.sleep(0.03)

    writer = threading.Thread(target=write)
    writer.start()
    while not path.exists():
        time.sleep(0.01)
    result = watch(path, columns=COLUMNS, max_frames=12)
    writer.join()
    from napari_emdl.base.signals import Calibration, in_memory

    same(result, batch(in_memory(frames, "movie", Calibration())))


def test_pages_of_a_growing_tiff_are_looked_at_once(frames, tmp_path, monkeypatch):
    """However long the movie is: what is there already is not gone through again for every new frame."""
    path, whole = tmp_path / "stack.tif", tmp_path / "whole.tif"
    for frame in frames[:6]:
        tifffile.imwrite(whole, frame, append=True)
    path.write_bytes(whole.read_bytes()[:-100])
    arrivals = watch_place(path)
    assert arrivals.poll() == [f"{i:08d}" for i in range(5)] and arrivals.waiting == 1
    seen, look = [], arrivals_module._page
    monkeypatch.setattr(
        arrivals_module, "_page", lambda file, offset, index: (seen.append(index), look(file, offset, index))[1]
    )
    path.write_bytes(whole.read_bytes())
    assert arrivals.poll() == ["00000005"] and arrivals.waiting == 0
    tifffile.imwrite(path, frames[6], append=True)
    assert arrivals.poll() == ["00000006"] and arrivals.poll() == []
    assert seen == [5, 6]
    newest = arrivals.movie(["00000004", "00000005", "00000006"])
    np.testing.assert_array_equal(newest.frame(2), frames[6])  # not a frame from the start
    np.testing.assert_array_equal(np.asarray(newest.data[0:2]), frames[4:6])


def test_growing_mrc_whatever_its_header_says(frames, tmp_path):
    path = tmp_path / "movie.mrc"
    header = bytearray(1024)
    header[:16] = struct.pack("<4i", 160, 160, 1, 6)
    header[28:40] = struct.pack("<3i", 160, 160, 1)
    header[40:52] = struct.pack("<3f", 160 * 0.12, 160 * 0.12, 1.0)
    header[212:214] = b"\x44\x44"
    whole = bytes(header) + frames.astype("<u2").tobytes()
    path.write_bytes(whole[: 1024 + 3 * 160 * 160 * 2 + 77])
    arrivals = watch_place(path)
    assert arrivals.poll() == ["00000000", "00000001", "00000002"]
    assert arrivals.waiting == 1
    path.write_bytes(whole)
    newest = arrivals.movie(arrivals.poll()[-3:])
    np.testing.assert_array_equal(newest.frame(2), frames[-1])  # not a frame from the start
    result = watch(path, columns=COLUMNS.model_copy(update={"pixel_size_A": None}), max_frames=12)
    assert result.n_frames == 12
    assert result.attrs["pixel_A"] == pytest.approx(0.12, rel=1e-5)


def test_gatan_tree_is_followed_in_time_order(tmp_path):
    arrivals = FolderArrivals(tmp_path)
    for second, frame in ((0, 1), (0, 0), (1, 2)):
        place = tmp_path / "Hour_00" / "Minute_00" / f"Second_{second:02d}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"run_Hour_00_Minute_00_Second_{second:02d}_Frame_{frame:04d}.dm4").write_bytes(b"half")
    arrivals.poll()
    assert arrivals.waiting == 3  # not one is whole
    assert [p.name[-8:-4] for p in arrivals._files()] == ["0000", "0001", "0002"]


def test_broken_files_are_named(frames, tmp_path, monkeypatch):
    monkeypatch.setattr("napari_emdl.atoms.live.arrivals.PATIENCE_S", 0.5)
    write_slowly(tmp_path, frames[:4], pause_s=0)
    (tmp_path / "frame_9.tif").write_bytes(tiff_bytes(frames[0])[:900])
    result = watch(tmp_path, columns=COLUMNS, idle_s=1.5)
    assert result.n_frames == 4
    assert any("frame_9.tif could not be read" in note for note in result.attrs["notes"])


def test_nothing_to_watch(tmp_path):
    with pytest.raises(EmdlError, match="no folder"):
        watch(tmp_path / "missing")
    with pytest.raises(EmdlError, match="no frame arrived"):
        watch(tmp_path, columns=COLUMNS, idle_s=0.3)
    other = tmp_path / "x.dat"
    other.write_bytes(b"1")
    with pytest.raises(EmdlError, match="not a stack that can grow"):
        watch(other)


def test_frames_of_another_size_are_refused(frames, tmp_path):
    write_slowly(tmp_path, [frames[0], frames[1], frames[2][:100]], pause_s=0)
    with pytest.raises(EmdlError, match="one movie at a time"):
        watch(tmp_path, columns=COLUMNS, idle_s=1)


@pytest.mark.parametrize("ending", ["tif", "png"])
def test_the_first_frame_of_a_live_movie_is_no_single_image(frames, tmp_path, ending):
    """The finder is made from the first frame that arrives; what the crystal says of single images must not touch a movie."""
    import imageio.v3 as imageio

    from napari_emdl.atoms.find.making import make_finder

    folder = tmp_path / "frames"
    folder.mkdir()
    frame = np.clip(frames[0], 0, 255).astype(np.uint8)
    imageio.imwrite(folder / f"frame_0.{ending}", frame)
    arrivals = watch_place(folder)
    deadline = time.monotonic() + 20
    keys: list[str] = []
    while not keys and time.monotonic() < deadline:
        keys = arrivals.poll()
    network = ColumnParams(contrast="bright", pixel_size_A=0.12)
    live = make_finder(arrivals.movie(keys), network)
    assert live.pooled is False
    assert make_finder(open_movie(folder / f"frame_0.{ending}"), network).pooled is True
