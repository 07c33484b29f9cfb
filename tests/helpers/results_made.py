"""Small results of every kind, with values that are easy to check."""

from __future__ import annotations

import dataclasses

import numpy as np

from napari_emdl.base.peaks import PeakTable
from napari_emdl.base.signals import Calibration
from napari_emdl.diffraction.fit.calibrate import DiffractionCalibration, Ellipse
from napari_emdl.diffraction.fit.strain import Evidence, StrainMap

UNITS = Calibration(qr_rotation_rad=0.2).override(
    "file", pixel_nm=(2.0, 2.0), q_pixel_invA=(0.02, 0.02), energy_keV=200.0, semiangle_mrad=1.5
)


def disks(shape: tuple[int, int] = (2, 3), seed: int = 0, most: int = 9) -> PeakTable:
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, most, int(np.prod(shape)))
    total = int(counts.sum())
    columns = {name: rng.uniform(1, 28, total).astype("f4") for name in ("row", "col", "intensity")}
    columns |= {"score": rng.uniform(0, 1, total).astype("f4"), "sigma_px": rng.uniform(0.01, 1, total).astype("f4")}
    attrs = {
        "calibration": UNITS,
        "detector_shape": (32, 30),
        "probe": rng.random((32, 30)).astype("f4"),
        "probe_radius_px": 4.0,
        "default_min_score": 0.3,
        "method": "template",
        "provenance": {"params": {"method": "template"}, "versions": {"napari-emdl": "0"}},
    }
    return PeakTable(shape, np.r_[0, np.cumsum(counts)], columns, attrs)


def strain(shape: tuple[int, int] = (4, 5)) -> StrainMap:
    rng = np.random.default_rng(1)
    mask = rng.random(shape) > 0.2
    hidden = np.where(mask, 0.0, np.nan)
    maps = [rng.normal(0, 0.01, shape) + hidden for _ in range(4)]
    origin = np.full((*shape, 2), 16.0)
    measured = DiffractionCalibration(
        origin, origin + 0.1, np.ones(shape, bool), Ellipse(1.02, 1 / 1.02, 0.3), UNITS, ("be careful",)
    )
    return StrainMap(
        *maps,
        sigma=rng.random((*shape, 4)) + hidden[..., None],
        g1=rng.random((*shape, 2)),
        g2=rng.random((*shape, 2)),
        origin_px=origin,
        mask=mask,
        reason=np.where(mask, 0, 1).astype(np.uint8),
        n_indexed=rng.integers(0, 30, shape),
        residual_px=rng.random(shape) + hidden,
        reference_g=np.array([[10.0, 0.0], [0.0, 11.0]]),
        axis_deg=15.0,
        calibration=measured,
        evidence=Evidence(
            **{f.name: 1 if "int" in str(f.type) else 0.5 for f in dataclasses.fields(Evidence) if f.name != "warnings"}
        ),
        attrs={"params": {"axis_deg": 15.0}, "basis_g": np.eye(2), "provenance": {"a": [1, 2]}},
    )


def small_occupancy() -> object:
    from napari_emdl.atoms.fit.occupancy import fit_occupancy

    rng = np.random.default_rng(0)
    rows, cols = np.meshgrid(np.arange(20, 110, 15.0), np.arange(20, 110, 15.0), indexing="ij")
    sites = np.stack([rows.ravel(), cols.ravel()], axis=1)
    lists, there = [], np.ones(len(sites), bool)
    for _ in range(24):
        there ^= rng.random(len(sites)) < np.where(there, 0.1, 0.3)
        kept = sites[there] + rng.normal(0, 0.2, (1, 2))
        count = len(kept)
        lists.append({"row": kept[:, 0], "col": kept[:, 1], "score": np.full(count, 0.9), "species": np.zeros(count, np.int8)})
    table = PeakTable.from_lists(lists)
    table.attrs.update(species=["atom"], pixel_A=0.15, frame_shape=[128, 128], default_min_score=0.5)
    return fit_occupancy(table)
