"""Flip passes, gain check, training range."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.disks_made import G, deformation, lattice_points, pattern
from napari_emdl.base.errors import EmdlError
from napari_emdl.base.params import DiskParams
from napari_emdl.base.peaks import PeakTable
from napari_emdl.base.signals import Calibration
from napari_emdl.diffraction.find.disks import find_disks, make_finder
from napari_emdl.diffraction.find.flips import FLIPS, FlipFinder, flipped_probe, merge_passes
from napari_emdl.diffraction.find.probe import probe_from_image, synthetic_probe
from napari_emdl.diffraction.find.trained import outside_training
from napari_emdl.diffraction.judge.gain import check_gain, deform_pattern, gain_line
from napari_emdl.workflow.finder import FinderInfo

SHAPE = (120, 131)
ORIGIN = np.array([61.3, 64.8])
LATTICES = np.stack([G @ np.linalg.inv(deformation(0.003 * i, 0, 0, 0.002 * i)) for i in range(3)])
TEMPLATE = DiskParams(method="template")


def patterns(n=3):
    random = np.random.default_rng(4)
    place = [lattice_points(g, ORIGIN, SHAPE)[0] for g in LATTICES[:n]]
    return random.poisson(np.stack([pattern(p, SHAPE) for p in place])).astype(np.uint16), place


class Biased:
    """Finder that puts every disk 0.3 px too far down and misses the last one of the mirrored patterns' rows."""

    default_min_score = 0.5
    info = FinderInfo("biased", provider="CPU")
    parallel = True

    def __init__(self, places):
        self.places = places

    def find(self, found, control=None):
        flipped_rows, flipped_cols = found[0, -1].any(), found[0, :, -1].any()
        lists = []
        for place in self.places[: len(found)]:
            row = SHAPE[0] - 1 - place[:, 0] if flipped_rows else place[:, 0]
            col = SHAPE[1] - 1 - place[:, 1] if flipped_cols else place[:, 1]
            keep = slice(0, -1) if flipped_rows else slice(None)
            n = len(row[keep])
            lists.append(
                {
                    "row": row[keep] + 0.3,
                    "col": col[keep],
                    "intensity": np.ones(n),
                    "score": np.ones(n),
                    "sigma_px": np.full(n, 0.1),
                }
            )
        return PeakTable.from_lists(lists)


def test_passes_undo_a_bias_and_widen_sigma_to_it():
    marked = np.zeros((2, *SHAPE))
    marked[:, 0, 0] = 1  # tells the finder which flip it sees
    place = [lattice_points(G, ORIGIN, SHAPE)[0]] * 2
    found = FlipFinder(lambda probe: Biased(place), synthetic_probe(5, SHAPE)).find(marked)
    assert found.counts().tolist() == [len(place[0])] * 2
    seen_by_all = found.at(0)["score"] == 1.0
    assert seen_by_all.sum() == len(place[0]) - 1 and found.at(0)["score"].min() == 0.5
    peaks = found.at(0)[seen_by_all]
    distance = np.linalg.norm(np.stack([peaks["row"], peaks["col"]], axis=1)[:, None] - place[0], axis=2).min(axis=1)
    assert distance.max() < 1e-4  # + and - 0.3 px cancel
    spread = np.sqrt(4 * 0.3**2 / (2 * 3))
    np.testing.assert_allclose(peaks["spread_px"], spread, rtol=1e-4)
    np.testing.assert_allclose(peaks["sigma_px"], spread, rtol=1e-4)


def test_passes_that_agree_leave_sigma_alone():
    table = PeakTable.from_lists(
        [{"row": [5.0, 9.0], "col": [5.0, 9.0], "intensity": [2.0, 4.0], "score": [0.9, 0.8], "sigma_px": [0.1, 0.2]}]
    )
    merged = merge_passes([table] * 4, 1.0)
    for name in ("row", "col", "intensity", "score", "sigma_px"):
        np.testing.assert_allclose(merged.column(name), table.column(name), rtol=1e-6)
    alone = merge_passes([table, *[PeakTable.empty((1,), table.fields)] * 3], 1.0)
    np.testing.assert_allclose(alone.column("score"), table.column("score") / 4, rtol=1e-6)
    assert np.isnan(alone.column("spread_px")).all()
    np.testing.assert_allclose(alone.column("sigma_px"), table.column("sigma_px"), rtol=1e-6)


def test_a_flipped_probe_is_that_of_the_flipped_pattern():
    for shape in (SHAPE, (64, 64)):
        image = synthetic_probe(5, shape).image.copy()
        image[shape[0] // 2 :, shape[1] // 2 :] *= 0.6
        probe = probe_from_image(image, shape)
        for axes in FLIPS:
            flipped = flipped_probe(probe, axes)
            again = probe_from_image(np.flip(image, axes), shape)
            np.testing.assert_allclose(flipped.image, again.image, atol=0.02)


def test_flip_passes_find_the_same_disks_through_the_job():
    data, place = patterns()
    cube = data[None]
    probe = synthetic_probe(5, SHAPE, 0.6)
    once = find_disks(cube, probe=probe, params=TEMPLATE)
    four = find_disks(cube, probe=probe, params=TEMPLATE, flip_passes=True)
    assert "spread_px" in four.fields and four.attrs["provenance"]["params"]["disks"]["flip_passes"]
    good = four.filter(min_score=four.attrs["default_min_score"])
    for i in range(3):
        assert abs(len(good[0, i]) - len(place[i])) <= 1
    assert (four.column("sigma_px") >= np.nan_to_num(four.column("spread_px")) - 1e-6).all()
    assert abs(good.n_peaks - once.filter(min_score=5).n_peaks) <= 3


def test_a_deformed_pattern_has_its_disks_where_the_strain_puts_them():
    (data, place) = patterns(1)
    f = deformation(0.02, -0.01, 0.005, 0.01)
    moved = deform_pattern(pattern(place[0], SHAPE), f, G, ORIGIN)
    expected = ORIGIN + (place[0] - ORIGIN) @ np.linalg.inv(f)
    finder = make_finder(TEMPLATE, synthetic_probe(5, SHAPE, 0.6), SHAPE)
    found = finder.find(np.stack([moved])).filter(min_score=5).positions_px()
    distance = np.linalg.norm(found[:, None] - expected, axis=2).min(axis=1)
    assert np.median(distance) < 0.02 and len(data)


def test_the_gain_of_template_matching_is_one_and_a_rounding_finder_shows_less():
    data, _ = patterns()
    finder = make_finder(TEMPLATE, synthetic_probe(5, SHAPE, 0.6), SHAPE)
    found = check_gain(data, finder, LATTICES, np.tile(ORIGIN, (3, 1)))
    assert found.n_patterns == 3
    np.testing.assert_allclose(found.gain, 1.0, atol=0.03)
    assert "gain 1.0" in gain_line(found) or "gain 0.9" in gain_line(found)

    class Pulling:
        """Pulls every disk halfway back to where it lies unstrained."""

        default_min_score = 5.0

        def find(self, many, control=None):
            table = finder.find(many, control)
            at = table.positions_px()
            home = ORIGIN + np.rint((at - ORIGIN) @ np.linalg.inv(G)) @ G
            half = (at + home) / 2
            return table.with_columns(row=half[:, 0], col=half[:, 1])

    np.testing.assert_allclose(check_gain(data[:1], Pulling(), G, ORIGIN).gain, 0.5, atol=0.03)
    with pytest.raises(EmdlError, match="no pattern kept its lattice"):
        check_gain(np.ones((1, *SHAPE)), finder, G, ORIGIN)


def test_beam_and_semiangle_outside_the_training_are_told():
    inside = Calibration(energy_keV=200, semiangle_mrad=2)
    assert outside_training(DiskParams(), inside) == []
    notes = outside_training(DiskParams(), Calibration(energy_keV=60, semiangle_mrad=9))
    assert len(notes) == 2 and "60 keV" in notes[0] and "80 to 300" in notes[0] and "9 mrad" in notes[1]
    assert outside_training(DiskParams(), Calibration()) == []
    assert outside_training(TEMPLATE, Calibration(energy_keV=12)) == []


def test_trust_of_a_scan_puts_it_all_together():
    from napari_emdl.base.signals import in_memory
    from napari_emdl.diffraction.fit.strain import fit_strain
    from napari_emdl.diffraction.judge.trust import check_trust

    data, _ = patterns()
    cube = in_memory(data[None], "datacube", Calibration(energy_keV=12))
    probe = synthetic_probe(5, SHAPE, 0.6)
    strain = fit_strain(find_disks(cube, probe=probe, params=TEMPLATE))
    found = check_trust(cube, probe, TEMPLATE, strain, n_patterns=2)
    assert found.gain.mean == pytest.approx(1, abs=0.03) and found.positions.tolist() == [[0, 0], [0, 2]]
    assert found.other == "light" and found.agreement.total_share > 0.8 and 0 < found.sigma_px < 0.2
    assert found.warnings == () and len(found.lines()) == 3
    blurred = check_trust(cube, probe, DiskParams(method="light"), strain, n_patterns=1)
    assert "12 keV is outside" in blurred.warnings[0]
    with pytest.raises(EmdlError, match="no position is fitted"):
        check_trust(cube, probe, TEMPLATE, type(strain)(**{**vars(strain), "mask": np.zeros((1, 3), bool)}))
