"""What a file is by its content, and the reader for it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from napari_emdl.base.errors import OpenError
from napari_emdl.base.params import OpenParams
from napari_emdl.base.reading import one_line
from napari_emdl.io.axes import Found
from napari_emdl.io.standins import no_data

_STARTS = {
    b"\x89HDF\r\n\x1a\n": "hdf5",
    b"II*\0": "tiff",
    b"MM\0*": "tiff",
    b"II+\0": "tiff",
    b"MM\0+": "tiff",
    b"\x93NUMPY": "npy",
    b"II\x97\x01": "ser",
    b"JK\x00\x02": "emi",
    b"\x89PNG": "png",
    b"\xff\xd8\xff": "jpeg",
    b"GIF8": "gif",
    b"\x00\x00\x00\x0cjP  ": "jp2",
    b"\xff\x4f\xff\x51": "jp2",
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",
    b"IMGBLO": "blo",
    b"MQ1,": "mib",
    b"\xed\xfe\0\0": "seq",
    b"\x00\x00\x00\x03\x00": "dm3",
    b"\x00\x00\x00\x04\x00\x00\x00\x00": "dm4",
}
_PLAIN_IMAGES = ("png", "jpeg", "bmp", "gif", "webp", "jp2")
_VIDEO_ENDINGS = (".mp4", ".avi", ".mov", ".mkv", ".m4v", ".wmv", ".mpg", ".mpeg", ".webm")
_FRAMES = ("movie", "focal_series", "datacube", "stack")
_RAW_ENDINGS = (".raw", ".bin", ".dat", "")
#: What packs files: to be unpacked by hand, since nothing in them can be read in part.
_PACKED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"7z\xbc\xaf": "7-Zip",
    b"Rar!": "RAR",
    b"\x28\xb5\x2f\xfd": "zstd",
}
#: Recordings that only their maker's programs read, by ending, and what to do with them.
_ELSEWHERE = {
    ".gtg": "a recording of a Gatan K2 or K3; save it from DigitalMicrograph as .dm4",
    ".tpx3": "a list of Timepix3 events; let the acquisition program write frames (TIFF, HDF5 or .mib)",
    ".eer": "a list of electron events; save it as MRC or TIFF, with RELION or EMAN2",
    ".czi": "an image of Zeiss ZEN; save it as OME-TIFF",
    ".lif": "an image of Leica LAS; save it as OME-TIFF",
    ".nd2": "an image of Nikon NIS; save it as OME-TIFF",
    ".rpl": "the description of a Ripple file; open its .raw file with shape and dtype",
    ".nsproj": "a project of Nion Swift; open the .ndata or .h5 file in its data folder",
    ".bcf": "a spectrum image of Bruker; save its images as TIFF",
    ".txt": "text; save the image as TIFF or .npy",
    ".csv": "text; save the image as TIFF or .npy",
    ".pkl": "a Python pickle, which may run any code; save the array with numpy.save",
}
_KNOWN = (
    "HDF5, TIFF, .npy, .npz, zarr, DM3/DM4, Merlin, EMPAD, blockfile, TVIPS, MRC, SEQ, SER/EMI, Velox, Topspin, films and "
    "images can be opened"
)


def sniff(path: Path) -> str:
    """What a file is by its first bytes, whatever its name says; "" when they tell nothing.

    Raises
    ------
    OpenError
        When the file is empty, not an ordinary file, or cannot be read.
    """
    if not path.is_file():
        raise OpenError(f"{path} is not an ordinary file")
    try:
        with open(path, "rb") as file:
            head = file.read(1024)
    except OSError as error:
        raise OpenError(f"{path} cannot be read: {error.strerror}") from error
    if what := no_data(head, path.suffix.lower()):
        raise OpenError(f"{path.name} {what}")
    for start, name in _STARTS.items():
        if head.startswith(start):
            return name
    if head[208:211] == b"MAP":
        return "mrc"
    if head.startswith(b"BM") and len(head) > 54:
        return "bmp"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "webp"
    if head[4:8] == b"ftyp" or (head.startswith(b"RIFF") and head[8:12] == b"AVI ") or head.startswith(b"\x1aE\xdf\xa3"):
        return "video"
    if path.stat().st_size > 512:
        from napari_emdl.io.hdf5gate import is_hdf5

        if is_hdf5(path):
            return "hdf5"
    if head.startswith(b"MATLAB 5.0 MAT-file"):
        return "mat"
    return "packed" if _packer(path) else ""


def _packer(path: Path) -> str:
    """What packs a file; "" when nothing that is known does."""
    with path.open("rb") as file:
        head = file.read(512)
    return next((name for start, name in _PACKED.items() if head.startswith(start)), "tar" if head[257:262] == b"ustar" else "")


def main_file(path: Path) -> Path:
    """File to open for a companion: the .mib of a .hdr, part 000 of a split TVIPS recording."""
    if path.suffix.lower() == ".hdr":
        for ending in (".mib", ".MIB", ".Mib"):
            if path.with_suffix(ending).is_file():
                return path.with_suffix(ending)
    part = re.fullmatch(r"(.+_)\d{3}", path.stem)
    if path.suffix.lower() == ".tvips" and part and path.with_name(f"{part.group(1)}000{path.suffix}").is_file():
        return path.with_name(f"{part.group(1)}000{path.suffix}")
    return path


def read(path: Path, dataset: str | None, how: OpenParams) -> Found:
    """Read a file or folder with the reader for what it is."""
    if path.is_dir():
        return _read_folder(path, dataset, how)
    magic, ending = sniff(path), path.suffix.lower()
    if magic == "packed":
        raise OpenError(f"{path.name} is packed ({_packer(path)}); unpack it first, and open what is in it")
    if ending in _ELSEWHERE and magic not in ("hdf5", "npy", "zip"):
        raise OpenError(f"{path.name} is {_ELSEWHERE[ending]}")
    if magic == "hdf5":
        return _read_hdf5(path, dataset)
    if magic == "tiff":
        from napari_emdl.io.formats.tiffs import read_tiff

        return read_tiff(path, dataset, as_frames=how.kind in _FRAMES or how.axes is not None)
    if magic == "zip":
        return _read_zip(path, ending, dataset)
    if magic == "emi":
        from napari_emdl.io.formats.ser import read_emi

        return read_emi(path, dataset)
    found = _read_lone(path, magic, ending, how)
    if found is None:
        return _read_vendor(path, magic, ending, dataset)
    if dataset is not None:
        raise OpenError(f"{path.name} holds one array only; there is no {dataset!r} in it")
    return found


def _read_lone(path: Path, magic: str, ending: str, how: OpenParams) -> Found | None:
    """Formats that hold one array; None for others."""
    if magic == "npy":
        from napari_emdl.io.formats.nion import read_npy_export

        return read_npy_export(path)
    if magic == "ser":
        from napari_emdl.io.formats.ser import read_ser

        return read_ser(path)
    if magic in _PLAIN_IMAGES:
        from napari_emdl.io.formats.pictures import read_picture

        return read_picture(path)
    if magic == "mib":
        from napari_emdl.io.formats.merlin import read_mib

        return read_mib(path)
    if magic == "seq":
        from napari_emdl.io.formats.norpix import read_seq

        return read_seq(path)
    if magic == "video" or (not magic and ending in _VIDEO_ENDINGS):
        from napari_emdl.io.formats.video import read_video

        return read_video(path)
    if ending == ".tvips" and not magic:
        from napari_emdl.io.formats.tvips import read_tvips

        return read_tvips(path)
    if magic == "mrc" or (not magic and ending in (".mrc", ".mrcs", ".ali")):
        from napari_emdl.io.formats.mrc import read_mrc

        return read_mrc(path)
    if ending == ".xml" and not magic:
        from napari_emdl.io.formats.empad import read_empad_xml

        return read_empad_xml(path)
    if ending == ".raw" and not magic:
        from napari_emdl.io.formats.empad import read_empad_raw

        return read_empad_raw(path, scan_given=how.shape is not None)
    return None


def _read_folder(path: Path, dataset: str | None, how: OpenParams) -> Found:
    from napari_emdl.io.formats.zarrs import is_zarr, read_zarr

    if path.suffix.lower() == ".zspy":
        from napari_emdl.io.formats.hyperspy import read_zspy

        return read_zspy(path, dataset)
    if is_zarr(path):
        return read_zarr(path, dataset)
    if dataset is not None:
        raise OpenError(f"{path} is a folder of images; there is no {dataset!r} in it")
    from napari_emdl.io.sequence import only_recording, read_folder

    recording = only_recording(path)
    if recording is None:
        return read_folder(path)
    try:
        return _alone(recording, how)
    except OpenError as why:
        try:  # a result or a file of settings that lies beside a few images
            return read_folder(path)
        except OpenError:
            raise why from None


def _alone(path: Path, how: OpenParams) -> Found:
    """The only recording of a folder, opened as itself."""
    from napari_emdl.io.sequence import opened_note

    found = read(main_file(path), None, how)
    return replace(found, notes=(*found.notes, opened_note(path)))


def _read_zip(path: Path, ending: str, dataset: str | None) -> Found:
    if ending == ".npz":
        from napari_emdl.io.formats.raw import read_npz

        return read_npz(path, dataset)
    if ending in (".ndata", ".ndata1"):
        from napari_emdl.io.formats.nion import read_ndata

        return read_ndata(path)
    if ending == ".zspy":
        from napari_emdl.io.formats.hyperspy import read_zspy

        return read_zspy(path, dataset)
    if ending == ".prz":
        from napari_emdl.io.formats.raw import check_unpacked_size
        from napari_emdl.io.formats.vendor import PLUGINS, read_vendor

        check_unpacked_size(path)
        return read_vendor(path, PLUGINS[ending], dataset)
    if ending == ".zip":
        from napari_emdl.io.formats.zarrs import read_zarr
        from napari_emdl.io.sequence import packed_images

        if count := packed_images(path):
            files = "a file" if count == 1 else f"{count} files"
            raise OpenError(f"{path.name} packs {files} of images or data; unpack it, and open the folder or a file of it")
        return read_zarr(path, dataset)
    raise OpenError(
        f"{path.name} is a zip file; unpack it and open what is in it, or rename it: to .npz if NumPy wrote it, to .zip if it "
        "is a zarr store"
    )


def _read_hdf5(path: Path, dataset: str | None) -> Found:
    from napari_emdl.io.formats.hdf5 import read_hdf5, written_by
    from napari_emdl.io.formats.hyperspy import read_hspy
    from napari_emdl.io.hdf5gate import Gate, check_dataset, check_whole, refuse_foreign_storage

    with one_line(path.name, "HDF5 file"), Gate(path) as gate:
        writer = written_by(gate)
        if writer and (dataset is None or gate.get(dataset) is None):
            refuse_foreign_storage(gate.file, path.name)
            for _, item in gate.datasets():
                check_dataset(item, path.name, gate.folder)
            if writer == "hyperspy" and (found := read_hspy(path, gate, dataset)) is not None:
                return found
            for _, item in gate.datasets():  # the library that reads them unpacks whatever is there
                check_whole(item, path.name)
        else:
            writer = ""
    if writer:
        from napari_emdl.io.formats.vendor import read_vendor

        return read_vendor(path, {"velox": "emd", "hyperspy": "hspy"}[writer], dataset)
    return read_hdf5(path, dataset)


def _read_vendor(path: Path, magic: str, ending: str, dataset: str | None) -> Found:
    from napari_emdl.io.formats.vendor import PLUGINS, read_vendor

    plugin = PLUGINS.get(f".{magic}") or PLUGINS.get(ending)
    unmistakable = {".dm3", ".dm4", ".mib", ".blo", ".hspy", ".emd", ".seq", ".app5", ".mat", ".mrc"}
    if magic == "mat":
        raise OpenError(f"{path.name} was written by MATLAB before v7.3; save it there with save(..., '-v7.3')")
    if not magic and ending in unmistakable:
        raise OpenError(f"{path.name} is not a {ending[1:]} file inside: its name has the wrong ending, or the file is damaged")
    if plugin is None:
        hint = "give `shape` and `dtype` to read it as raw binary" if ending in _RAW_ENDINGS else _KNOWN
        wrong = ending in (".h5", ".hdf5", ".tif", ".tiff", ".npy", ".npz", ".ser", ".emi", ".png", ".jpg")
        what = f"is not a {ending[1:]} file inside (wrong ending, or damaged)" if wrong else "is of no known format"
        raise OpenError(f"{path.name} {what}; {hint}")
    if ending != f".{magic}" and magic in ("dm3", "dm4", "blo"):
        raise OpenError(f"{path.name} is a {magic} file by its content; rename it to end in .{magic}")
    return read_vendor(path, plugin, dataset)
