"""What residuals of lattice fits say of the errors of disks: their size, and what neighbours share."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.disks_made import G, table_of
from napari_emdl.base.peaks import PeakTable
from napari_emdl.diffraction.fit.residuals import alike_in_neighbours, in_errors, typical_size
from napari_emdl.diffraction.fit.strain import fit_strain
from napari_emdl.diffraction.lattice import LatticeFit, fit_lattices

SCAN = (12, 16)


def scan(noise_px: float, slow_px: float = 0.0, always_px: float = 0.0) -> tuple[PeakTable, LatticeFit]:
    """Disks with errors by chance, errors that change slowly over the scan, and ones that are the same everywhere."""
    rng = np.random.default_rng(8)
    table = table_of(np.tile(np.eye(2), (*SCAN, 1, 1)))
    of, place = table.flat_index(), table.positions_px()
    number = np.arange(len(of)) - table.offset[:-1][of]
    phase = rng.uniform(0, 2 * np.pi, (number.max() + 1, 2))
    row, col = np.divmod(of, SCAN[1])
    slow = np.sqrt(2) * slow_px * np.sin(phase[number] + 0.9 * (row + col)[:, None])
    place = place + rng.normal(0, noise_px, place.shape) + slow + always_px * np.sign(np.sin(phase))[number]
    table = table.with_columns(row=place[:, 0], col=place[:, 1], sigma_px=np.full(len(of), 0.1))
    return table, fit_lattices(place, np.full(len(of), 100.0), table.offset, np.array([128.0, 128.0]), G, calibrated=True)


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])
def test_residuals_are_as_large_as_the_disks_err(factor):
    table, fit = scan(0.1 * factor)
    rows, residual = in_errors(table, fit)
    assert len(rows) == table.n_peaks
    assert typical_size(residual) == pytest.approx(factor**2, rel=0.12)
    assert np.isnan(typical_size(residual[:0]))


def test_what_neighbours_share_is_seen_and_what_all_share_is_not():
    good = np.ones(SCAN[0] * SCAN[1], bool)
    assert alike_in_neighbours(*scan(0.1), good) == pytest.approx(0, abs=0.03)
    assert alike_in_neighbours(*scan(0.1, always_px=0.1), good) == pytest.approx(0, abs=0.03)
    # half of the variance is slow, and the same disk has .62 of that in common with its neighbour
    assert alike_in_neighbours(*scan(0.1, slow_px=0.1), good) == pytest.approx(0.31, abs=0.05)


def test_too_few_neighbours_or_disks_without_errors_say_nothing():
    table, fit = scan(0.1)
    assert alike_in_neighbours(table, fit, np.arange(SCAN[0] * SCAN[1]) < 2) == 0
    bare = PeakTable(table.shape, table.offset, {name: table.column(name) for name in ("row", "col", "score")}, {})
    assert alike_in_neighbours(bare, fit, np.ones(SCAN[0] * SCAN[1], bool)) == 0


def test_sigma_of_the_strain_goes_with_the_residuals_of_disks_that_a_network_measured():
    """A scan of own strains at every position: neighbours tell nothing, residuals do."""
    rng = np.random.default_rng(5)
    e = rng.uniform(-0.02, 0.02, (*SCAN, 3))
    f = np.moveaxis(np.array([[1 + e[..., 0], e[..., 2]], [e[..., 2], 1 + e[..., 1]]]), (0, 1), (2, 3))
    sigma = {}
    for noise_px in (0.04, 0.08):
        table = table_of(f, noise_px=noise_px)
        table.attrs |= {"method": "fcunet", "probe_radius_px": 5.0}
        told = fit_strain(table.with_columns(sigma_px=np.full(table.n_peaks, 0.1)), fit="peaks", lattices="one")
        sigma[noise_px] = float(np.median(told.sigma[..., 0]))
    assert 1.2 < sigma[0.08] / sigma[0.04] < 1.7  # not in full: a network starts near the lattice
