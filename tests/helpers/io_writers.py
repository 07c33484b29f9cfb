"""Small files in the layouts that other programs write, so that readers are tested without vendor data."""

from __future__ import annotations

import struct
from pathlib import Path

import h5py
import numpy as np


def cube(shape: tuple[int, int, int, int] = (3, 4, 6, 5), dtype: str = "uint16") -> np.ndarray:
    """Datacube in which every element is different."""
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def write_py4dstem_012(path: Path, data: np.ndarray) -> None:
    """py4DSTEM 0.12 and before: EMD 0.2 with dim1 ... dim4 and calibration in a metadata group."""
    with h5py.File(path, "w") as file:
        top = file.create_group("4DSTEM_experiment")
        top.attrs.update(emd_group_type=2, version_major=0, version_minor=12)
        group = top.create_group("data/datacubes/datacube_0")
        group.attrs["emd_group_type"] = 1
        group["data"] = data
        for i, (name, units) in enumerate((("R_x", "[pix]"), ("R_y", "[pix]"), ("Q_x", "[pix]"), ("Q_y", "[pix]"))):
            dim = group.create_dataset(f"dim{i + 1}", data=np.arange(data.shape[i]))
            dim.attrs.update(name=name, units=units)
        calibration = top.create_group("metadata/metadata_0/calibration")
        calibration.attrs.update(
            Q_pixel_size=0.02, Q_pixel_units="A^-1", R_pixel_size=15.0, R_pixel_units="A", QR_rotation=0.25
        )


def write_py4dstem_013(path: Path, data: np.ndarray) -> None:
    """py4DSTEM 0.13: dim0 ... dim3 of two points, calibration items as typed datasets beside the datacube."""
    with h5py.File(path, "w") as file:
        top = file.create_group("4DSTEM")
        top.attrs.update(emd_group_type="root", version_major=0, version_minor=13, version_release=11)
        group = top.create_group("datacube")
        group.attrs.update(emd_group_type=1, py4dstem_class="DataCube")
        group["data"] = data
        for i, (name, units) in enumerate((("Rx", "nm"), ("Ry", "nm"), ("Qx", "A^-1"), ("Qy", "A^-1"))):
            dim = group.create_dataset(f"dim{i}", data=[0, 1.5] if i < 2 else [0, 0.02])
            dim.attrs.update(name=name, units=units)
        calibration = top.create_group("calibration")
        calibration.attrs.update(emd_group_type=0, py4dstem_class="Calibration")
        for name, value in {"Q_pixel_size": 0.02, "R_pixel_size": 1.5, "QR_rotation": 0.25}.items():
            calibration[name] = value
        for name, text in {"Q_pixel_units": "A^-1", "R_pixel_units": "nm"}.items():
            calibration[name] = np.bytes_(text)


def write_prismatic(path: Path, data: np.ndarray, latin: bool = False) -> None:
    """Prismatic 2.0: one datacube a depth, full dim vectors, run parameters as attributes."""
    with h5py.File(path, "w") as file:
        top = file.create_group("4DSTEM_simulation")
        top.attrs.update(version_major=0, version_minor=9, emd_group_type=2)
        group = top.create_group("data/datacubes/CBED_array_depth0000")
        group.attrs["emd_group_type"] = 1
        group.create_dataset("data", data=data.astype("f4"), chunks=(1, 1, *data.shape[2:]))
        steps = (0.5, 0.25, 0.04, 0.05)
        units = ("[Å]", "[Å]", "[Å^-1]", "[Å^-1]")
        for i, name in enumerate(("R_x", "R_y", "Q_x", "Q_y")):
            dim = group.create_dataset(f"dim{i + 1}", data=np.arange(data.shape[i]) * steps[i])
            dim.attrs["name"] = np.bytes_(name)
            dim.attrs["units"] = np.bytes_(units[i].encode("latin-1" if latin else "utf-8"))
        image = top.create_group("data/realslices/annular_detector_depth0000")
        image["data"] = np.ones(data.shape[:2], "f4")
        run = top.create_group("metadata/metadata_0/original/simulation_parameters")
        run.attrs.update(E=200.0, sa=21.5, i=np.bytes_("atoms.xyz"))


def write_ser(path: Path, images: np.ndarray, pixel_m: float = 2e-11, version: int = 0x0210) -> None:
    """TIA series of 2-D images, bottom row first, one dimension that counts them."""
    count, rows, cols = images.shape
    wide = version >= 0x0220
    kind = {"uint16": 2, "float32": 7}[str(images.dtype)]
    unit, text = b"", b"Number"
    dimension = struct.pack("<iddii", count, 0.0, 1.0, 0, len(text)) + text + struct.pack("<i", len(unit)) + unit
    head = struct.pack("<hhhiiii", 0x4949, 0x0197, version, 0x4122, 0x4152, count, count)
    table_at = len(head) + (8 if wide else 4) + 4 + len(dimension)
    head += struct.pack("<q" if wide else "<i", table_at) + struct.pack("<i", 1) + dimension
    width = 8 if wide else 4
    at = table_at + 2 * count * width
    data, offsets, tags = b"", [], []
    for image in images:
        offsets.append(at + len(data))
        data += struct.pack("<ddiddihii", 0.0, pixel_m, 0, 0.0, pixel_m, 0, kind, cols, rows) + image[::-1].tobytes()
        tags.append(at + len(data))
        data += struct.pack("<hhi", 0x4152, 0, 1)
    table = np.array(offsets + tags, "<i8" if wide else "<i4").tobytes()
    path.write_bytes(head + table + data)


def write_dm4(path: Path, image: np.ndarray, pixel_nm: float = 0.02, padding: str = "") -> None:
    """DigitalMicrograph 4 with one image; `padding` is a tag that shifts the data."""
    dm_type, tag_type = {"uint16": (10, 4), "float32": (2, 6), "int16": (1, 2)}[str(image.dtype)]

    def entry(kind: int, name: str, body: bytes) -> bytes:
        return struct.pack(">BH", kind, len(name)) + name.encode() + struct.pack(">q", len(body)) + body

    def group(name: str, *tags: bytes) -> bytes:
        return entry(20, name, struct.pack(">BBq", 1, 0, len(tags)) + b"".join(tags))

    def value(name: str, form: str, code: int, number: float) -> bytes:
        return entry(21, name, b"%%%%" + struct.pack(">qq", 1, code) + struct.pack("<" + form, number))

    def array(name: str, code: int, count: int, raw: bytes) -> bytes:
        return entry(21, name, b"%%%%" + struct.pack(">qqqq", 3, 20, code, count) + raw)

    def text(name: str, words: str) -> bytes:
        return array(name, 4, len(words), words.encode("utf-16-le"))

    def axis(scale: float, unit: str) -> bytes:
        return group("", value("Origin", "f", 6, 0.0), value("Scale", "f", 6, scale), text("Units", unit))

    sizes = [value("", "I", 5, n) for n in image.shape[::-1]]
    axes = [axis(pixel_nm, "nm") for _ in image.shape]
    brightness = group("Brightness", value("Origin", "f", 6, 0.0), value("Scale", "f", 6, 1.0), text("Units", ""))
    data = group(
        "ImageData",
        group("Calibrations", brightness, group("Dimension", *axes)),
        array("Data", tag_type, image.size, image.tobytes()),
        value("DataType", "I", 5, dm_type),
        group("Dimensions", *sizes),
        value("PixelDepth", "I", 5, image.itemsize),
    )
    listed = group("", data, group("ImageTags", text("Note", "x")), text("Name", "frame"))
    tags = [text("Padding", padding)] if padding else []
    root = struct.pack(">BBq", 1, 0, 1 + len(tags)) + b"".join(tags) + group("ImageList", listed)
    path.write_bytes(struct.pack(">iqi", 4, len(root), 1) + root + b"\0" * 8)


def write_insitu(folder: Path, frames: np.ndarray, per_second: int) -> None:
    """Gatan in-situ tree with `per_second` frames in each Second_ folder."""
    for i, frame in enumerate(frames):
        second, number = divmod(i, per_second)
        place = folder / "Hour_00" / "Minute_00" / f"Second_{second:02d}"
        place.mkdir(parents=True, exist_ok=True)
        stem = f"run_Hour_00_Minute_00_Second_{second:02d}_Frame_{number:04d}"
        write_dm4(place / f"{stem}.dm4", frame, padding="longer tags" if i == 2 else "")
