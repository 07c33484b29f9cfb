"""The direct beam is followed where the patterns move over the scan, and not where reflections outshine it."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.disks_made import G, deformation, table_of
from napari_emdl.base.peaks import PeakTable
from napari_emdl.diffraction.fit.calibrate import calibrate
from napari_emdl.diffraction.fit.origin import in_pairs
from napari_emdl.diffraction.fit.strain import fit_strain

ROWS, COLS, SHAPE = 9, 12, (256, 256)
Y, X = np.meshgrid(np.linspace(-1, 1, ROWS), np.linspace(-1, 1, COLS), indexing="ij")
SHORT = float(np.linalg.norm(G, axis=1).min())
MOVES = {
    "plane": np.stack([1.6 * SHORT * Y, -1.2 * SHORT * X], axis=-1),
    "bowl": np.stack([SHORT * (Y**2 + X**2), 0 * X], axis=-1),
    "step": np.stack([0.55 * SHORT * (Y > 0.3), -0.35 * SHORT * (Y > 0.3)], axis=-1),
    "jitter": np.random.default_rng(4).normal(0, 0.25 * SHORT, (ROWS, COLS, 2)),
}


def scan(moves: np.ndarray | float = 0.0) -> PeakTable:
    """Disks of a scan whose patterns move as wholes."""
    truth = np.random.default_rng(3).uniform(-0.01, 0.01, (ROWS * COLS, 4))
    table = table_of(np.stack([deformation(*t) for t in truth]).reshape(ROWS, COLS, 2, 2), G, SHAPE, noise_px=0.03)
    by = np.broadcast_to(moves, (ROWS, COLS, 2)).reshape(-1, 2)[table.flat_index()]
    fields = {name: table.column(name) for name in table.fields}
    made = PeakTable(table.shape, table.offset, {**fields, "row": fields["row"] + by[:, 0], "col": fields["col"] + by[:, 1]})
    made.attrs = dict(table.attrs)
    return made


@pytest.mark.parametrize("name", MOVES)
def test_strain_is_that_of_still_patterns(name: str) -> None:
    still, moved = fit_strain(scan()), fit_strain(scan(MOVES[name]))
    assert still.mask.all() and moved.mask.all()
    np.testing.assert_allclose(moved.exx, still.exx, atol=2e-4)
    np.testing.assert_allclose(moved.exy, still.exy, atol=2e-4)
    assert moved.calibration is not None and still.calibration is not None
    # which point of a lattice the beam is cannot be told everywhere once it left the plane; the strain does not hang on it
    off = (moved.calibration.origin_px - still.calibration.origin_px - MOVES[name]) @ np.linalg.inv(G)
    assert np.abs(off - np.rint(off)).max() < 0.2 and np.mean(np.abs(off).max(axis=-1) < 0.12) > 0.8
    told = [text for text in moved.evidence.warnings if "descan" in text] if moved.evidence else []
    assert bool(told) == (name != "plane")  # a plane is followed as it always was


def test_reflections_that_outshine_the_beam_move_nothing() -> None:
    """As in a bent crystal, where one reflection after the other is the brightest."""
    table = scan()
    place, of = table.positions_px(), table.flat_index()
    intensity = table.column("intensity").astype(float)
    for position, x in enumerate(X.ravel()):
        own = np.flatnonzero(of == position)
        outshining = own[np.linalg.norm(place[own] - [128, 128] - round(1.5 * x) * G[0], axis=1).argmin()]
        intensity[outshining] = 3 * intensity[own].max()
    bent = PeakTable(table.shape, table.offset, {n: table.column(n) for n in table.fields} | {"intensity": intensity})
    bent.attrs = dict(table.attrs)
    np.testing.assert_allclose(calibrate(bent).origin_px, calibrate(table).origin_px, atol=0.2)


def test_pairs_are_counted_about_an_origin() -> None:
    table = scan()
    right = np.full((table.n_positions, 2), 128.0)
    assert (in_pairs(table, right, SHORT) > 0.9).all() and (in_pairs(table, right + 0.5 * G[0] / 2, SHORT) < 0.3).all()
    assert (in_pairs(table, right * np.nan, SHORT) == 0).all()
