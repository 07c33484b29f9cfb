"""Two result files of one name may be written at the same time, as a project and the session beside it are."""

from __future__ import annotations

from pathlib import Path

import h5py

from napari_emdl.io.outputs import write_hdf5


def test_two_files_of_one_name_are_written_at_once(tmp_path: Path) -> None:
    one, other = tmp_path / "project" / "columns.h5", tmp_path / "session" / "columns.h5"

    def fill(file: h5py.File) -> None:
        write_hdf5(other, lambda inner: inner.attrs.__setitem__("of", "session"))
        file.attrs["of"] = "project"

    write_hdf5(one, fill)
    for path, of in ((one, "project"), (other, "session")):
        with h5py.File(path) as file:
            assert file.attrs["of"] == of
