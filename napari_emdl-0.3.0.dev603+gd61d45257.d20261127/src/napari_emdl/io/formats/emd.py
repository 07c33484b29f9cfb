"""EMD 1.0 as py4DSTEM 0.14 reads it: BraggVectors, stacks of maps, probe and calibration, written with plain h5py.

One root group holds a tree of nodes; the calibration lies in the root's metadata bundle and names the nodes it belongs to.
Every metadata item carries its type as an attribute.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.errors import OpenError
from napari_emdl.base.peaks import PeakTable
from napari_emdl.base.signals import Calibration
from napari_emdl.io.formats.h5meta import calibration_from
from napari_emdl.io.formats.hdf5 import point_list_type

POINT = np.dtype([("qx", "f8"), ("qy", "f8"), ("intensity", "f8")])
#: Detector given to peak lists that were stored calibrated, without their detector.
_NOTIONAL_DETECTOR_PX = 256


def start_file(file: h5py.File, root: str) -> h5py.Group:
    """Write the file header and an empty root; returns the root."""
    file.attrs.update(
        emd_group_type="file",
        version_major=1,
        version_minor=0,
        UUID=str(uuid.uuid4()),
        authoring_program="napari-emdl",
        authoring_user="",
    )
    return node(file, root, "root", "Root")


def node(parent: h5py.Group, name: str, group_type: str, python_class: str | None = None) -> h5py.Group:
    """Group with the attributes of an EMD node."""
    group = parent.create_group(name)
    group.attrs["emd_group_type"] = group_type
    if python_class:
        group.attrs["python_class"] = python_class
    return group


def write_metadata(parent: h5py.Group, name: str, values: Mapping[str, Any], python_class: str = "Metadata") -> None:
    """Write a metadata node into the bundle of `parent`; None values are left out."""
    bundle = parent["metadatabundle"] if "metadatabundle" in parent else node(parent, "metadatabundle", "metadatabundle")
    group = node(bundle, name, "metadata", python_class)
    for key, value in values.items():
        if value is None:
            continue
        if isinstance(value, str):
            item, kind = group.create_dataset(key, data=np.bytes_(value.encode())), "string"
        elif isinstance(value, (bool, np.bool_)):
            item, kind = group.create_dataset(key, data=bool(value)), "bool"
        elif isinstance(value, tuple):
            item, kind = group.create_dataset(key, data=np.asarray(value)), "tuple"
        elif isinstance(value, np.ndarray):
            item, kind = group.create_dataset(key, data=value), "array"
        elif isinstance(value, list):
            item = group.create_group(key)
            item.attrs["length"] = len(value)
            for i, text in enumerate(value):
                item.create_dataset(str(i), data=np.bytes_(text.encode()))
            kind = "list_of_strings"
        else:
            item, kind = group.create_dataset(key, data=value), "number"
        item.attrs["type"] = kind


def write_calibration(
    root: h5py.Group,
    calibration: Calibration,
    targets: Sequence[str],
    origin_px: NDArray[np.floating[Any]] | None = None,
    ellipse: tuple[float, float, float] | None = None,
) -> None:
    """Write py4DSTEM's Calibration; unknown sizes are 1 pixel, as there.

    Parameters
    ----------
    root
        Root of the tree.
    calibration
        Units; py4DSTEM knows square pixels only, so the mean of row and col is given.
    targets
        Tree paths of the nodes it belongs to, such as "/braggvectors".
    origin_px
        (R, C, 2) origin of the patterns, if known; py4DSTEM's StrainMap needs it.
    ellipse
        Stretches a, b and the direction of a in rad from the row axis to the col axis, if measured.
    """
    q, step = calibration.q_pixel_invA, calibration.pixel_nm
    values: dict[str, Any] = {
        "Q_pixel_size": 1.0 if q is None else float(np.mean(q)),
        "Q_pixel_units": "pixels" if q is None else "A^-1",
        "R_pixel_size": 1.0 if step is None else float(np.mean(step)),
        "R_pixel_units": "pixels" if step is None else "nm",
        "QR_flip": bool(calibration.qr_flip),
        "convergence_semiangle_mrad": calibration.semiangle_mrad,
        "beam_energy": None if calibration.energy_keV is None else calibration.energy_keV * 1e3,
        "_root_treepath": "",
        "_target_paths": list(targets),
    }
    if "qr_rotation_rad" in calibration.source or calibration.qr_rotation_rad:
        values["QR_rotation"] = float(calibration.qr_rotation_rad)
        values["QR_rotation_degrees"] = float(np.rad2deg(calibration.qr_rotation_rad))
    if origin_px is not None:
        for axis, name in enumerate(("qx0", "qy0")):
            centre = np.asarray(origin_px[..., axis], float)
            values |= {name: centre, f"{name}_mean": float(centre.mean()), f"{name}_shift": centre - centre.mean()}
    if ellipse is not None:
        values |= dict(zip(("a", "b", "theta"), (float(v) for v in ellipse), strict=True))
    write_metadata(root, "calibration", values, "Calibration")


def write_bragg_vectors(root: h5py.Group, disks: PeakTable, detector_shape: tuple[int, int]) -> h5py.Group:
    """Write disks as py4DSTEM BraggVectors named "braggvectors": qx is the row, qy the col, in detector pixels."""
    rows, cols = disks.shape
    points = np.zeros(disks.n_peaks, POINT)
    points["qx"], points["qy"] = disks.column("row"), disks.column("col")
    points["intensity"] = disks.column("intensity" if "intensity" in disks.fields else "score")
    lists = np.empty(disks.n_positions, object)
    offset = disks.offset
    for i in range(disks.n_positions):
        lists[i] = points[offset[i] : offset[i + 1]]
    group = node(root, "braggvectors", "custom", "BraggVectors")
    vectors = node(group, "_v_uncal", "custom_pointlistarray", "PointListArray")
    dataset = vectors.create_dataset("data", (rows, cols), h5py.vlen_dtype(POINT))
    if disks.n_positions:
        # h5py takes lists of one point each for points, and the last axis for the lists: give it that axis
        single = bool((np.diff(offset) == 1).all())
        dataset[...] = points.reshape(rows, cols, 1) if single else lists.reshape(rows, cols)
    shapes = {"Rshape": (rows, cols), "Qshape": tuple(int(n) for n in detector_shape)}
    write_metadata(group, "_braggvectors_shape", shapes)
    return group


def write_stack(
    parent: h5py.Group, name: str, data: NDArray[Any], labels: Sequence[str], python_class: str, pixel: tuple[float, str]
) -> h5py.Group:
    """Write a stack of labelled maps (labels, rows, cols) as a py4DSTEM Array class such as RealSlice or Probe.

    Parameters
    ----------
    parent
        Node above it.
    name, python_class
        Of the node.
    data
        (len(labels), rows, cols).
    labels
        Names of the maps.
    pixel
        Size of a pixel and its unit.
    """
    group = node(parent, name, "array", python_class)
    group.create_dataset("data", data=data).attrs["units"] = "intensity"
    for axis in (0, 1):
        dim = group.create_dataset(f"dim{axis}", data=np.array([0.0, pixel[0]]))
        dim.attrs.update(name=f"dim{axis}", units=pixel[1])
    dim = group.create_dataset(
        "dim2", data=np.array([label.encode() for label in labels], dtype=object), dtype=h5py.string_dtype()
    )
    dim.attrs["name"] = "_labels_"
    return group


def read_bragg_vectors(file: h5py.File, name: str) -> PeakTable:
    """Read the peak lists of a py4DSTEM file, EMD 1.0 (raw, in pixels) or 0.x.

    Lists that were stored calibrated, with vectors in 1/Å around the origin, are put on a notional detector of 256 x 256
    pixels with the origin in its middle, so that everything stays in pixels; their physical positions are unchanged and
    ``attrs["note"]`` says so.

    Raises
    ------
    OpenError
        When the file holds no peak lists, or several.
    """
    grids = point_list_grids(file)
    raw = [n for n in grids if n.rpartition("/")[0].endswith("_v_uncal")] or grids
    if not raw:
        raise OpenError(f"{name} holds no result that can be loaded: no disks, strain, columns or occupancy")
    if len(raw) > 1:
        raise OpenError(f"{name} holds several peak lists ({', '.join(raw)}); save one of them alone")
    dataset = file[raw[0]]
    lists = dataset[()].reshape(-1)
    counts = [len(points) for points in lists]
    flat = np.concatenate(lists) if sum(counts) else np.zeros(0, POINT)
    columns = {"row": flat["qx"], "col": flat["qy"]}
    intensity = flat["intensity"] if "intensity" in (flat.dtype.names or ()) else np.ones(len(flat))
    columns |= {"intensity": intensity, "score": intensity}
    table = PeakTable(dataset.shape, np.r_[0, np.cumsum(counts)], columns)
    top = file[raw[0].split("/")[0]]
    bundle = top.get("metadatabundle/calibration")
    table.attrs["calibration"] = calibration_from(bundle, Calibration()) if bundle is not None else Calibration()
    if bundle is not None and "qx0" in bundle and bundle["qx0"].shape == dataset.shape:
        table.attrs["origin_px"] = np.stack([bundle["qx0"][()], bundle["qy0"][()]], axis=-1)
    shape = dataset.parent.parent.get("metadatabundle/_braggvectors_shape/Qshape")
    if shape is not None:
        table.attrs["detector_shape"] = tuple(int(n) for n in shape[()])
    elif table.n_peaks and table.column("row").min() < 0:
        table = _on_notional_detector(table)
    return table


def point_list_grids(file: h5py.File) -> list[str]:
    """Paths of the grids of py4DSTEM point lists in a file."""
    found: list[str] = []

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.ndim == 2 and point_list_type(item) is not None:
            found.append(name)

    file.visititems(visit)
    return found


def _on_notional_detector(table: PeakTable) -> PeakTable:
    """Centred vectors in 1/Å as pixels of a notional detector."""
    reach = float(np.abs(table.positions_px()).max())
    size = _NOTIONAL_DETECTOR_PX
    pixel = reach / (0.45 * size)
    moved = table.with_columns(row=table.column("row") / pixel + size / 2, col=table.column("col") / pixel + size / 2)
    moved.attrs.update(
        table.attrs,
        calibration=table.attrs["calibration"].override("file", q_pixel_invA=(pixel, pixel)),
        detector_shape=(size, size),
        origin_px=np.full((*table.shape, 2), size / 2.0),
        note=f"stored in 1/Å around the origin; put on a notional detector of {size} x {size} pixels of {pixel:.6g} 1/Å",
    )
    return moved
