"""Small files in the layouts that other programs write, so that readers are tested without vendor data."""

from __future__ import annotations

import json
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


def mib_header(
    number: int, shape: tuple[int, int], mode: str = "U16", stamp_s: float = 0.0, bits: int = 12, chips: int = 1
) -> bytes:
    """Header of 384 bytes of a Merlin frame."""
    minutes, seconds = divmod(stamp_s, 60)
    stamp = f"2024-06-10T14:{int(minutes):02d}:{seconds:012.9f}Z"
    layout = "2x2" if chips == 4 else "1x1"
    text = (
        f"MQ1,{number:06d},00384,{chips:02d},{shape[1]:04d},{shape[0]:04d},{mode},   {layout},0F,2024-06-10 16:51:49.971626,"
        f"0.000555,0,0,0,1.2E+2,5.11E+2,3RX,175,511,000,MQ1A,{stamp},1000000ns,{bits},"
    )
    return text.encode().ljust(384, b" ")


def write_mib(path: Path, frames: np.ndarray, gaps_s: float | np.ndarray = 1e-3) -> None:
    """Merlin frames (processed); `gaps_s` are the times between them, one for all or one each."""
    stamps = np.cumsum(np.broadcast_to(gaps_s, len(frames)))
    mode = {1: "U08", 2: "U16", 4: "U32"}[frames.itemsize]
    with path.open("wb") as file:
        for i, frame in enumerate(frames):
            big = frame[::-1].astype(frame.dtype.newbyteorder(">"))
            file.write(mib_header(i + 1, frame.shape, mode, float(stamps[i])) + big.tobytes())


def pack_raw(frame: np.ndarray, bits: int) -> bytes:
    """Rows of a frame as Merlin's raw words of 64 bits, the pixels of each word in reverse order."""
    if bits == 1:
        return np.packbits(frame.reshape(-1, 64), axis=1, bitorder="little")[:, ::-1].tobytes()
    if bits == 6:
        return frame.astype("u1").reshape(-1, 8)[:, ::-1].tobytes()
    if bits == 12:
        return frame.reshape(-1, 4)[:, ::-1].astype(">u2").tobytes()
    high, low = frame.astype("u4") >> 12, frame.astype("u4") & 0xFFF
    return pack_raw(high, 12) + pack_raw(low, 12)


def write_raw_mib(path: Path, frames: np.ndarray, bits: int, quad: bool = False) -> None:
    """Merlin frames in raw mode (R64), of one chip or of four."""
    with path.open("wb") as file:
        for i, frame in enumerate(frames):
            stored = frame[::-1]
            rows, cols = frame.shape
            if quad:
                top, bottom = stored[: rows // 2], stored[rows // 2 :]
                half = cols // 2
                chips = [bottom[::-1, half:][:, ::-1], bottom[::-1, :half][:, ::-1], top[:, half:], top[:, :half]]
                stored = np.concatenate(chips, axis=1)
            shape = (stored.shape[0], stored.shape[1] * (2 if bits == 24 else 1))
            file.write(mib_header(i + 1, shape, "R64", i * 1e-3, bits, 4 if quad else 1) + pack_raw(stored, bits))


def write_hdr(path: Path, count: int, per_trigger: int, extra: str = "", encoding: str = "utf-8") -> None:
    """Merlin's header file beside a .mib."""
    text = (
        f"HDR,\t\nCounter Depth (number):\t12\nFrames in Acquisition (Number):\t{count}\n"
        f"Frames per Trigger (Number):\t{per_trigger}\n"
        f"{extra}End\t\n"
    )
    path.write_bytes(text.encode(encoding))


def write_empad(folder: Path, data: np.ndarray, name: str = "scan", indent: str = "\n  ") -> None:
    """EMPAD .raw with two rows of bookkeeping a frame, and the .xml that describes it."""
    rows, cols = data.shape[:2]
    stored = np.full((*data.shape[:2], 130, 128), 1e30, "<f4")
    stored[..., :128, :] = data
    raw = f"{name}_x{cols}_y{rows}.raw"
    (folder / raw).write_bytes(stored.tobytes())
    parts = [f'<raw_file filename="{raw}"/>', f"<pix_x>{cols}</pix_x>", f"<pix_y>{rows}</pix_y>"]
    parts.append(
        "<iom_measurements><calibrated_pixelsize>2e-1</calibrated_pixelsize></iom_measurements>".replace("2e-1", "2e-10")
    )
    (folder / f"{name}.xml").write_text(f'<?xml version="1.0"?>\n<root name="A">{indent}{indent.join(parts)}\n</root>\n')


def write_mrc(path: Path, stack: np.ndarray, pixel_A: float = 1.0) -> None:
    """MRC stack; cameras write cells of 1 angstrom a pixel where they know no size."""
    mode = {"int8": 0, "int16": 1, "float32": 2, "uint16": 6}[str(stack.dtype)]
    head = bytearray(1024)
    count, rows, cols = stack.shape
    struct.pack_into("<10i", head, 0, cols, rows, count, mode, 0, 0, 0, cols, rows, count)
    struct.pack_into("<3f", head, 40, cols * pixel_A, rows * pixel_A, count * pixel_A)
    head[208:216] = b"MAP \x44\x44\0\0"
    path.write_bytes(bytes(head) + stack.tobytes())


def write_de_info(path: Path, scan: tuple[int, int] | None, step_nm: float, q_invnm: float) -> None:
    """Info file that Direct Electron writes beside a movie."""
    lines = ["Camera Model = DE-16", "Frames Per Second = 100", f"Scan - Enable = {'Enable' if scan else 'Disable'}"]
    if scan:
        lines += ["Scan - Type = Raster", f"Scan - Size X = {scan[1]}", f"Scan - Size Y = {scan[0]}"]
    for axis in "XY":
        lines += [f"Specimen Pixel Size {axis} (nanometers) = {step_nm}", f"Diffraction Pixel Size {axis} = {q_invnm}"]
    lines.append(f"Instrument Project TEMorSTEM Mode = {1 if scan else 0}")
    path.write_text("\n".join(lines) + "\n")


def write_seq(path: Path, frames: np.ndarray, interval_s: float = 0.25, version: int = 5) -> None:
    """Norpix StreamPix frames of uint8 or uint16, each with its time stamp, in records padded to 64 bytes."""
    count, rows, cols = frames.shape
    nbytes = rows * cols * frames.itemsize
    record = (nbytes + 8 + 63) // 64 * 64
    head = bytearray(8192 if version >= 5 else 1024)
    struct.pack_into("<I24sii", head, 0, 0xFEED, "Norpix seq".encode("utf-16-le"), version, 1024)
    bits = 8 * frames.itemsize
    struct.pack_into("<9I", head, 548, cols, rows, bits, bits, nbytes, 100, count, 0, record)
    struct.pack_into("<d", head, 584, 1 / interval_s)
    with path.open("wb") as file:
        file.write(bytes(head))
        for i, frame in enumerate(frames):
            time = i * interval_s
            stamp = struct.pack("<iHH", 1_700_000_000 + int(time), round(time % 1 * 1000), 0)
            file.write((frame.tobytes() + stamp).ljust(record, b"\0"))


def write_dectris(folder: Path, frames: np.ndarray, files: int = 2, where: str = "", **detector: object) -> Path:
    """DECTRIS master file with its frames behind external links in `where`, a flat field and a pixel mask."""
    (folder / where).mkdir(parents=True, exist_ok=True)
    master = folder / "scan_master.h5"
    with h5py.File(master, "w") as file:
        for number, part in enumerate(np.array_split(frames, files), 1):
            name = f"scan_data_{number:06d}.h5"
            with h5py.File(folder / where / name, "w") as inner:
                inner.create_dataset("entry/data/data", data=part, chunks=(1, *part.shape[1:]), compression="gzip")
            file[f"entry/data/data_{number:06d}"] = h5py.ExternalLink(str(Path(where) / name), "/entry/data/data")
        group = file.create_group("entry/instrument/detector")
        group["flatfield"] = np.ones(frames.shape[1:], "f4")
        mask = np.zeros(frames.shape[1:], "u4")
        mask[2, 3] = 1
        group["pixel_mask"] = mask
        group["count_time"] = 0.01
        for name, value in detector.items():
            group[f"detectorSpecific/{name}"] = value
    return master


def write_app5(path: Path, data: np.ndarray, step_m: float = 2e-9) -> None:
    """Topspin: one group a pattern, named by its number, with its place in XML."""
    rows, cols = data.shape[:2]
    with h5py.File(path, "w") as file:
        file["Metadata"] = "<Experiment/>"
        file["Version"] = 1
        scan = file.create_group("a0dba950-15bf-4a74-a81c-9cea8560c2c8")
        for number in range(rows * cols):
            row, col = divmod(number, cols)
            axis = "<A><Offset>0</Offset><Scale>0.2</Scale><Unit><Name>x</Name><Symbol>mrad</Symbol></Unit></A>"
            place = f"<P><X>{col * step_m!r}</X><Y>{row * step_m!r}</Y></P>"
            text = f"<Root><Axes>{axis}{axis}</Axes><Context><Item><Name>Position</Name>{place}</Item></Context></Root>"
            group = scan.create_group(str(number))
            group["Data"] = data[row, col]
            group["Metadata"] = text


def write_nexus(path: Path, data: np.ndarray) -> None:
    """NeXus file whose default is one of two arrays of the same shape, with axes."""
    with h5py.File(path, "w") as file:
        file.attrs["default"] = "entry"
        entry = file.create_group("entry")
        entry.attrs.update(NX_class="NXentry", default="shown")
        other = entry.create_group("raw")
        other.attrs.update(NX_class="NXdata", signal="counts")
        other["counts"] = np.zeros_like(data)
        group = entry.create_group("shown")
        group.attrs.update(NX_class="NXdata", signal="corrected", axes=["y", "x", "ky", "kx"])
        group["corrected"] = data
        steps, units_of = (1.5, 1.5, 0.02, 0.02), ("nm", "nm", "1/Å", "1/Å")
        for name, size, step, units in zip(group.attrs["axes"], data.shape, steps, units_of, strict=True):
            group[name] = np.arange(size) * step
            group[name].attrs["units"] = units


def write_dm4_scan(
    path: Path, stored: np.ndarray, units: tuple[str, ...], tags: dict[str, object], more: dict[str, object] | None = None
) -> None:
    """DM4 of three or four axes; `units` by axis of `stored`, `tags` under "Meta Data", `more` beside it."""

    def data(value: object) -> tuple[list[int], bytes]:
        if isinstance(value, bool):
            return [8], struct.pack("<b", value)
        if isinstance(value, int):
            return [5], struct.pack("<I", value)
        if isinstance(value, float):
            return [7], struct.pack("<d", value)
        if isinstance(value, str):
            text = value.encode("utf-16le")
            return [20, 4, len(text) // 2], text
        array = np.ascontiguousarray(value)
        return [20, 4, array.size], array.astype("<u2").tobytes()

    def group(entries: dict[str, object] | list[object]) -> bytes:
        items = list(entries.items()) if isinstance(entries, dict) else [("", entry) for entry in entries]
        body = b""
        for name, value in items:
            if isinstance(value, (dict, list)):
                kind, inner = b"\x14", group(value)
            else:
                info, raw = data(value)
                kind, inner = (
                    b"\x15",
                    b"%%%%" + struct.pack(">Q", len(info)) + b"".join(struct.pack(">Q", i) for i in info) + raw,
                )
            body += kind + struct.pack(">H", len(name)) + name.encode() + struct.pack(">Q", len(inner)) + inner
        return b"\0\0" + struct.pack(">Q", len(items)) + body

    def image(
        array: np.ndarray, names: tuple[str, ...], meta: dict[str, object], extra: dict[str, object]
    ) -> dict[str, object]:
        axes: list[object] = [{"Origin": 0.0, "Scale": 0.5 if unit else 1.0, "Units": unit} for unit in names[::-1]]
        brightness = {"Origin": 0.0, "Scale": 1.0, "Units": ""}
        calibrations = {"Brightness": brightness, "Dimension": axes, "DisplayCalibratedUnits": True}
        sizes: list[object] = [int(n) for n in array.shape[::-1]]
        facts = {"Calibrations": calibrations, "Data": array, "DataType": 10, "Dimensions": sizes, "PixelDepth": 2}
        return {
            "ImageData": facts,
            "ImageTags": ({"Meta Data": meta} if meta else {}) | extra,
            "Name": "img",
            "UniqueID": [1, 2, 3, 4],
        }

    listed: list[object] = [image(np.zeros((8, 8), "u2"), ("", ""), {}, {}), image(stored, units, tags, more or {})]
    body = group({"ImageList": listed, "InImageMode": True, "Thumbnails": [{"ImageIndex": 0}]})
    path.write_bytes(struct.pack(">IQI", 4, len(body), 1) + body + b"\0" * 8)


def write_netcdf(path: Path, data: np.ndarray, axes: list[tuple[str, str, float]]) -> None:
    """HDF5 with dimension scales (name, unit, step), as netCDF-4 and NSID attach them."""
    with h5py.File(path, "w") as file:
        held = file.create_dataset("frames", data=data)
        for i, (name, unit, step) in enumerate(axes):
            scale = file.create_dataset(name, data=np.arange(data.shape[i]) * step)
            scale.attrs["units"] = unit
            scale.make_scale(name)
            held.dims[i].attach_scale(scale)


def write_dm5(path: Path, data: np.ndarray, axes: list[tuple[str, float]]) -> None:
    """DM5 with a thumbnail and an image; `axes` are (unit, step) from the fastest."""
    with h5py.File(path, "w") as file:
        for number, values in (("[0]", np.zeros((20, 20, 4), np.uint8)), ("[1]", data)):
            image = file.create_group(f"ImageList/{number}/ImageData")
            image["Data"] = values
            for i, (unit, step) in enumerate(axes):
                image.create_group(f"Calibrations/Dimension/[{i}]").attrs.update(Scale=np.float32(step), Units=np.bytes_(unit))


def write_counted(path: Path, counts: np.ndarray, version: int) -> None:
    """Counted electrons of stempy: from version 3 on two frames at each position in order, before with the position of each."""
    rows, cols, height, width = counts.shape
    pixels = np.arange(height * width)
    hits = [np.repeat(pixels, pattern.ravel()).astype(np.uint32) for pattern in counts.reshape(-1, height, width)]
    parts = [part for hit in hits for part in (hit[::2], hit[1::2])] if version >= 3 else hits[::-1]
    with h5py.File(path, "w") as file:
        file.attrs["version"] = version
        frames = file.create_dataset("electron_events/frames", (len(parts),), dtype=h5py.vlen_dtype(np.uint32))
        for i, part in enumerate(parts):
            frames[i] = part
        frames.attrs.update(Nx=height, Ny=width)
        order = np.arange(rows * cols)[:: 1 if version >= 3 else -1]
        file.create_dataset("electron_events/scan_positions", data=order).attrs.update(Nx=cols, Ny=rows)


def write_nion(path: Path, data: np.ndarray) -> None:
    """Array of Nion Swift with its properties in a .json file beside it: a sequence in s and nm."""
    np.save(path, data)
    steps = [{"offset": 0.0, "scale": step, "units": unit} for step, unit in ((0.5, "s"), (0.02, "nm"), (0.02, "nm"))]
    about = {"spatial_calibrations": steps, "is_sequence": True, "collection_dimension_count": 0, "datum_dimension_count": 2}
    path.with_suffix(".json").write_text(json.dumps(about))
