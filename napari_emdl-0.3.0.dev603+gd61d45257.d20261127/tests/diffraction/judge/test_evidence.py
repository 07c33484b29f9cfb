"""Statistics, verdicts and residuals of strain maps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from helpers.disks_made import G, deformation, table_of
from napari_emdl.base.errors import EmdlError
from napari_emdl.diffraction.fit.strain import fit_strain
from napari_emdl.diffraction.judge.evidence import lattice_points, lattice_residuals, map_statistics, verdict, verdict_line


def noisy(shape=(6, 8), noise_px=0.05, **options):
    random = np.random.default_rng(2)
    f = np.stack([deformation(*random.uniform(-0.02, 0.02, 4)) for _ in range(shape[0] * shape[1])])
    return fit_strain(table_of(f.reshape(*shape, 2, 2), noise_px=noise_px), **options)


def test_statistics_are_numpys_within_the_region():
    random = np.random.default_rng(0)
    values = random.normal(1.5, 0.3, (20, 30))
    values[3, 4] = np.nan
    region = np.zeros((20, 30), bool)
    region[:10, :5] = True
    chosen = values[region & np.isfinite(values)]
    found = map_statistics(values, region, bins=20)
    assert (found.n, len(found.edges), found.counts.sum()) == (49, 21, 49)
    assert (found.mean, found.median) == (pytest.approx(chosen.mean()), pytest.approx(np.median(chosen)))
    assert found.std == pytest.approx(chosen.std(ddof=1))
    values[0, 0] = 1e6  # an outlier is counted at the edge and presses nothing together
    wide = map_statistics(values, region)
    assert wide.edges[-1] < 1e6 and wide.counts.sum() == 49
    empty = map_statistics(values, np.zeros((20, 30), bool))
    assert empty.n == 0 and np.isnan(empty.mean)
    with pytest.raises(EmdlError, match="draw it on this map"):
        map_statistics(values, region[:5])


def test_a_good_map_is_quantitative_and_says_what_zero_is():
    found = verdict(noisy(), "exx")
    assert found.quantitative and found.why == ("zero is the median of the scan",)
    assert verdict_line(noisy(reference=(0, 2, 0, 2)), "exx") == ""


def test_maps_that_are_no_measurement_say_why():
    good = noisy()
    strain = replace(good, sigma=np.where(good.mask[..., None], 0.02, np.full(4, np.nan)))
    assert "typical error is 2.00 %" in verdict_line(strain, "exy")
    assert "is not quantitative" in verdict_line(strain, "theta_rad") and "1.15°" in verdict_line(strain, "theta_rad")
    few = replace(good, mask=np.arange(48).reshape(6, 8) < 20)
    assert verdict(few, "exx").why == ("only 42 % of the positions are fitted",)
    assert not verdict(replace(good, mask=np.zeros_like(good.mask)), "exx").quantitative
    ideal = noisy(g1=tuple(G[0]), g2=tuple(G[1]), reference="lattice")
    assert "camera length" in verdict_line(ideal, "exx") and verdict(ideal, "theta_rad").quantitative


def test_a_map_without_strain_says_that_it_is_noise():
    flat = fit_strain(table_of(np.tile(np.eye(2), (6, 8, 1, 1)), noise_px=0.1), reference=(0, 6, 0, 4))
    assert "varies no more than its error" in verdict_line(flat, "exx")


def test_residuals_lead_from_disks_to_the_fit_and_points_from_the_reference():
    strain = noisy(reference=(0, 1, 0, 1))
    g, origin = np.stack([strain.g1[2, 3], strain.g2[2, 3]]), strain.origin_px[2, 3]
    hk = np.array([[0, 0], [1, -2], [3, 1]])
    moved = origin + hk @ g + [[0.1, 0.0], [0.0, -0.2], [0.3, 0.3]]
    measured, fitted = lattice_residuals(strain, (2, 3), np.concatenate([moved, [origin + 0.5 * g.sum(axis=0)]]))
    np.testing.assert_allclose(measured, moved)
    np.testing.assert_allclose(fitted, origin + hk @ g)
    reference, lattice = lattice_points(strain, (2, 3), (256, 256))
    index = np.rint((lattice - origin) @ np.linalg.inv(g))
    np.testing.assert_allclose(reference, origin + index @ strain.reference_g, atol=1e-9)
    assert len(lattice) > 50 and lattice.min() >= 0 and lattice.max() <= 255
    masked = replace(strain, mask=np.zeros_like(strain.mask))
    assert not len(lattice_residuals(masked, (2, 3), moved)[0]) and not len(lattice_points(masked, (2, 3), (256, 256))[0])
