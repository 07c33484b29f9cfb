"""Line profiles of strain."""

from __future__ import annotations

import numpy as np
import pytest

from napari_emdl.base.errors import EmdlError
from napari_emdl.diffraction.fit.strain import StrainMap
from napari_emdl.diffraction.judge.profile import line_profile


@pytest.fixture
def ramp() -> StrainMap:
    """exx rises by 0.001 a column, errors are 0.0002; column 3 has no fit."""
    rows, cols = 6, 9
    exx = np.tile(np.arange(cols) * 1e-3, (rows, 1))
    exx[:, 3] = np.nan
    mask = np.isfinite(exx)
    nothing = np.zeros((rows, cols))
    vectors = np.zeros((rows, cols, 2))
    return StrainMap(
        exx=exx,
        eyy=nothing,
        exy=nothing,
        theta_rad=nothing,
        sigma=np.full((rows, cols, 4), 2e-4),
        g1=vectors,
        g2=vectors,
        origin_px=vectors,
        mask=mask,
        reason=(~mask).astype(np.uint8),
        n_indexed=mask * 9,
        residual_px=nothing,
        reference_g=np.eye(2),
        axis_deg=0.0,
    )


def test_values_errors_and_gaps_along_a_row(ramp):
    found = line_profile(ramp, (2, 1), (2, 7), "exx", width=4, step=(1.5, 1.5))
    np.testing.assert_allclose(found.distance, np.arange(7) * 1.5)
    np.testing.assert_allclose(found.value, [1e-3, 2e-3, np.nan, 4e-3, 5e-3, 6e-3, 7e-3])
    np.testing.assert_allclose(found.sigma[found.count > 0], 1e-4)  # of four positions
    assert found.count.tolist() == [4, 4, 0, 4, 4, 4, 4]


def test_a_line_down_a_column_is_flat_and_may_leave_the_scan(ramp):
    found = line_profile(ramp, (0, 5), (8, 5))
    assert found.count.tolist() == [1] * 6 + [0] * 3
    np.testing.assert_allclose(found.value[:6], 5e-3)


def test_bad_lines_are_told(ramp):
    for start, stop, more, word in (
        ((1, 1), (1, 1), {}, "no length"),
        ((20, 20), (30, 30), {}, "outside"),
        ((0, 0), (1, 1), {"component": "ezz"}, "ezz"),
        ((0, 0), (1, 1), {"width": 0}, "width"),
    ):
        with pytest.raises(EmdlError, match=word):
            line_profile(ramp, start, stop, **more)
