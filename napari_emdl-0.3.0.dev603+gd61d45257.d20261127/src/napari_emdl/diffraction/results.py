"""How disks and strain are kept: our arrays, and beside them an EMD 1.0 tree that py4DSTEM reads."""

from __future__ import annotations

from typing import Any

import h5py
import numpy as np

from napari_emdl.base.errors import EmdlError
from napari_emdl.base.kinds import ResultKind
from napari_emdl.base.peaks import PeakTable
from napari_emdl.base.signals import Calibration
from napari_emdl.diffraction.fit.calibrate import DiffractionCalibration, Ellipse, with_calibration
from napari_emdl.diffraction.fit.projector import Distortion
from napari_emdl.diffraction.fit.strainmap import Evidence, StrainMap
from napari_emdl.io.formats import emd
from napari_emdl.io.packing import Classes, read_dataclass, write_dataclass
from napari_emdl.io.results import add_provenance, read_peaks, write_peaks

STRAIN_LABELS = ("e_xx", "e_yy", "e_xy", "theta", "mask", "error")
CLASSES: Classes = {
    "StrainMap": StrainMap,
    "Evidence": Evidence,
    "DiffractionCalibration": DiffractionCalibration,
    "Ellipse": Ellipse,
    "Distortion": Distortion,
    "Calibration": Calibration,
}


def is_disks(result: Any) -> bool:
    """Whether it is a table of Bragg disks: peaks over a scan, without species."""
    if not isinstance(result, PeakTable):
        return False
    return "species" not in result.fields and "species" not in result.attrs and len(result.shape) == 2


def write_disks(file: h5py.File, disks: PeakTable) -> None:
    """Write disks as BraggVectors and as flat arrays."""
    calibration = disks.attrs.get("calibration") or Calibration()
    detector = disks.attrs.get("detector_shape") or _reach(disks)
    root = emd.start_file(file, "braggvectors_root")
    floor = disks.attrs.get("default_min_score")
    strong = disks if floor is None else disks.filter(min_score=float(floor))
    vectors = emd.write_bragg_vectors(root, strong, detector)
    probe = disks.attrs.get("probe")
    if probe is not None:
        image = np.asarray(probe, float)
        stack = np.stack([image, np.zeros_like(image)])
        group = emd.write_stack(vectors, "probe", stack, ("probe", "kernel"), "Probe", (1.0, "pixels"))
        emd.write_metadata(group, "params", {"radius_px": disks.attrs.get("probe_radius_px")})
    emd.write_calibration(root, calibration, ["/braggvectors"], _origin_of(disks), disks.attrs.get("ellipse"))
    write_peaks(file, disks, CLASSES)


def read_disks(file: h5py.File) -> PeakTable:
    """Read what :func:`write_disks` wrote."""
    return read_peaks(file, CLASSES)


def write_strain(file: h5py.File, strain: StrainMap) -> None:
    """Write a strain map as py4DSTEM's StrainMap and as arrays with NaN where masked."""
    held = strain.calibration
    calibration = (held.calibration if isinstance(held, DiffractionCalibration) else held) or Calibration()
    root = emd.start_file(file, "strainmap_root")
    error = np.sqrt(np.mean(np.square(strain.sigma[..., :3]), axis=-1))
    maps = [strain.exx, strain.eyy, strain.exy, strain.theta_rad, strain.mask, error]
    # py4DSTEM keeps zeros where its mask is False; numbers of masked positions stay NaN in strain/.
    stack = np.stack([np.where(strain.mask, np.nan_to_num(np.asarray(m, float)), 0.0) for m in maps])
    step = calibration.pixel_nm
    labels: tuple[str, ...] = STRAIN_LABELS
    if strain.region is not None:
        stack, labels = np.concatenate([stack, strain.region[None].astype(float)]), (*labels, "region")
    emd.write_stack(
        root, "strainmap", stack, labels, "RealSlice", (1.0, "pixels") if step is None else (float(np.mean(step)), "nm")
    )
    origin = getattr(strain.calibration, "origin_px", strain.origin_px)
    ellipse = getattr(strain.calibration, "ellipse", None)
    emd.write_calibration(
        root,
        calibration,
        [],
        origin if np.isfinite(origin).all() else None,
        None if ellipse is None else (ellipse.a, ellipse.b, ellipse.theta_rad),
    )
    write_dataclass(file.create_group("strain"), strain, CLASSES)


def read_strain(file: h5py.File) -> StrainMap:
    """Read what :func:`write_strain` wrote."""
    strain = read_dataclass(file["strain"], CLASSES)
    add_provenance(file, strain.attrs)
    return strain


def _origin_of(disks: PeakTable) -> Any:
    """(R, C, 2) origin of every position, which py4DSTEM asks for; None where no central disk is seen."""
    origin = disks.attrs.get("origin_px")
    if origin is not None and np.shape(origin) == (*disks.shape, 2):  # not one of before a crop
        return origin
    try:
        return with_calibration(disks).attrs["origin_px"]
    except EmdlError:
        return None


def _reach(disks: PeakTable) -> tuple[int, int]:
    if not disks.n_peaks:
        return 1, 1
    rows, cols = np.ceil(disks.positions_px().max(axis=0)).astype(int) + 1
    return max(1, int(rows)), max(1, int(cols))


KINDS = (
    ResultKind("disks", is_disks, write_disks, read_disks),
    ResultKind("strain", lambda result: isinstance(result, StrainMap), write_strain, read_strain),
)
