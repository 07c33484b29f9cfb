"""Our disks in py4DSTEM's StrainMap: it starts at once, and with our g1 and g2 it gives our strain."""

from __future__ import annotations

import numpy as np
import pytest

import napari_emdl as emdl
from helpers.disks_made import G, deformation, table_of
from napari_emdl.base.params import CalibrateParams
from napari_emdl.base.signals import Calibration
from napari_emdl.diffraction.fit.calibrate import with_calibration


@pytest.mark.referee
def test_strain_of_py4dstem_from_our_file_is_ours(tmp_path):
    py4dstem = pytest.importorskip("py4DSTEM")
    import matplotlib

    matplotlib.use("Agg")
    random = np.random.default_rng(4)
    truth = random.uniform(-0.004, 0.004, (4, 5, 4))
    f = np.stack([deformation(*t) for t in truth.reshape(-1, 4)]).reshape(4, 5, 2, 2)
    table = table_of(f, noise_px=0.01)
    table.attrs |= {"calibration": Calibration().override("file", q_pixel_invA=(0.02, 0.02)), "detector_shape": (256, 256)}
    emdl.save(with_calibration(table), tmp_path / "disks.h5")
    ours = emdl.fit_strain(emdl.load(tmp_path / "disks.h5"), g1=tuple(G[0]), g2=tuple(G[1]), reference="lattice")

    vectors = py4dstem.read(str(tmp_path / "disks.h5"))
    assert vectors.calibration.get_Q_pixel_size() == pytest.approx(0.02)
    assert np.allclose(vectors.calibration.get_origin(), 128.0, atol=0.05)
    vectors.setcal(center=True, ellipse=False, pixel=False, rotate=False)
    strainmap = py4dstem.StrainMap(vectors)
    g1, g2 = G
    strainmap.g0, strainmap.g1, strainmap.g2 = np.zeros(2), g1, g2
    directions = py4dstem.process.strain.latticevectors.index_bragg_directions(
        0.0, 0.0, *_points(vectors), tuple(g1), tuple(g2)
    )
    strainmap.braggdirections = directions[-1]
    strainmap.max_peak_spacing = 3.0
    strainmap.fit_basis_vectors()
    strainmap.get_strain(gvects=(g1, g2), layout="square")
    theirs = np.stack([strainmap.data[i] for i in range(3)])
    assert np.abs(theirs - np.stack([ours.exx, ours.eyy, ours.exy])).max() < 2e-4


@pytest.mark.referee
def test_ellipse_goes_to_py4dstem_and_undoes_itself_there(tmp_path):
    py4dstem = pytest.importorskip("py4DSTEM")
    from napari_emdl.diffraction.fit.calibrate import Ellipse

    square = np.array([[25.0, 0.0], [0.0, 25.0]])
    bent = square @ Ellipse(1.02, 1 / 1.02, 0.7).matrix()
    table = table_of(np.tile(np.eye(2), (3, 3, 1, 1)), g=bent)
    made = with_calibration(table, CalibrateParams(ellipticity=True))
    emdl.save(made, tmp_path / "disks.h5")
    vectors = py4dstem.read(str(tmp_path / "disks.h5"))
    vectors.setcal(center=True, ellipse=True, pixel=False, rotate=False)
    found = vectors.cal[1, 1].data
    place = np.stack([found["qx"], found["qy"]], axis=1)
    distance = np.sort(np.linalg.norm(place, axis=1))[1:5]
    assert np.ptp(distance) < 0.02


def _points(vectors):
    """Direction of every Bragg vector of the first pattern, as py4DSTEM's choose_basis_vectors finds them in the map."""
    first = vectors.cal[0, 0].data
    return first["qx"], first["qy"]
