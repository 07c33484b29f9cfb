from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import napari_emdl as emdl
from helpers.disks_made import G, deformation, table_of
from napari_emdl.base.errors import EmdlError
from napari_emdl.base.params import CalibrateParams
from napari_emdl.base.peaks import PeakTable
from napari_emdl.base.signals import Calibration
from napari_emdl.diffraction.basis import find_basis, reduce_basis
from napari_emdl.diffraction.fit.calibrate import Ellipse, calibrate, ellipse_of_lattice
from napari_emdl.diffraction.fit.origin import fit_origin, measure_origin
from napari_emdl.diffraction.fit.strain import COMPONENTS, REASONS, fit_strain, lattice_consistent
from napari_emdl.diffraction.fit.tensor import strain_components, strain_sigma
from napari_emdl.diffraction.lattice import Segments, bragg_vector_map, fit_lattices

small = st.floats(-0.03, 0.03)
CENTRE = np.array([128.0, 128.0])


def values(strain):
    return np.stack([getattr(strain, name) for name in COMPONENTS], axis=-1)


@settings(max_examples=25, deadline=None)
@given(exx=small, eyy=small, exy=small, turn=st.floats(-0.03, 0.03))
def test_exact_on_synthetic_deformations(exx, eyy, exy, turn):
    f = np.stack([np.eye(2), deformation(exx, eyy, exy, turn)])[None]
    strain = fit_strain(table_of(f), reference=(0, 1, 0, 1))
    assert strain.mask.all()
    assert np.allclose(values(strain)[0, 1], [exx, eyy, exy, -turn], atol=1e-9)
    assert np.allclose(values(strain)[0, 0], 0, atol=1e-9)


@settings(max_examples=25, deadline=None)
@given(exx=small, eyy=small, exy=small, axis=st.floats(-180, 180))
def test_turned_axes_follow_the_tensor(exx, eyy, exy, axis):
    g = np.linalg.inv(deformation(exx, eyy, exy, 0.0))[None]
    got = strain_components(g, np.eye(2), axis)[0]
    x, y = np.array([np.cos(np.deg2rad(axis)), np.sin(np.deg2rad(axis))]), None
    y = np.array([-x[1], x[0]])
    tensor = np.array([[exx, exy], [exy, eyy]])
    assert np.allclose(got, [x @ tensor @ x, y @ tensor @ y, x @ tensor @ y, 0], atol=1e-12)


def test_gain_is_one_on_noisy_disks_and_sigma_tells_the_error():
    random = np.random.default_rng(0)
    truth = random.uniform(-0.03, 0.03, (12, 12, 4)) * [1, 1, 1, 0.6]
    f = np.stack([deformation(*t) for t in truth.reshape(-1, 4)]).reshape(12, 12, 2, 2)
    strain = fit_strain(table_of(f, noise_px=0.1), g1=tuple(G[0]), g2=tuple(G[1]), reference="lattice")
    expected = truth * [1, 1, 1, -1]
    error = values(strain) - expected
    for i in range(4):
        gain = (values(strain)[..., i] * expected[..., i]).sum() / (expected[..., i] ** 2).sum()
        assert gain == pytest.approx(1.0, abs=0.01)
    assert np.sqrt(np.mean((error / strain.sigma) ** 2)) == pytest.approx(1.0, abs=0.3)
    assert strain.evidence.warnings == ()


def test_faint_disks_that_lean_on_the_lattice_do_not_make_sigma_small():
    """A network measures them from where the lattice says: small residuals that tell nothing about the lattice's error."""
    f = np.tile(np.eye(2), (8, 8, 1, 1))
    table = table_of(f, noise_px=0.1)
    faint = table.column("intensity") < 20
    origin = np.array([128.0, 128.0])
    strong = fit_lattices(table.positions_px(), np.where(faint, 0.0, 100.0), table.offset, origin, G)
    of, hk = table.flat_index(), np.rint((table.positions_px() - origin) @ np.linalg.inv(G))
    place = np.where(faint[:, None], strong.origin[of] + np.einsum("ni,nij->nj", hk, strong.g[of]), table.positions_px())
    sigma = np.where(faint, 1.0, 0.1)
    fields = {"row": place[:, 0], "col": place[:, 1], "sigma_px": sigma, "intensity": table.column("intensity")}
    leaning = PeakTable(table.shape, table.offset, {**fields, "score": table.column("score")})
    strain = fit_strain(leaning, g1=tuple(G[0]), g2=tuple(G[1]), reference="lattice")
    assert np.sqrt(np.mean((values(strain) / strain.sigma) ** 2)) < 1.4


@pytest.mark.referee
def test_signs_and_axes_are_those_of_py4dstem():
    latticevectors = pytest.importorskip("py4DSTEM.process.strain.latticevectors")
    from py4DSTEM.data import RealSlice

    f = np.stack([deformation(1e-4, 2e-4, 3e-4, 4e-4), np.eye(2)])[None]
    for axis in (0.0, 30.0):
        ours = fit_strain(table_of(f), g1=tuple(G[0]), g2=tuple(G[1]), reference="lattice", axis_deg=axis)
        vectors = {
            "g1x": ours.g1[..., 0],
            "g1y": ours.g1[..., 1],
            "g2x": ours.g2[..., 0],
            "g2y": ours.g2[..., 1],
            "mask": ours.mask,
        }
        given_map = RealSlice(
            np.stack([np.asarray(v, float) for v in vectors.values()]), slicelabels=tuple(vectors), name="g1g2_map"
        )
        theirs = latticevectors.get_strain_from_reference_g1g2(given_map, tuple(G[0]), tuple(G[1]))
        angle = np.deg2rad(axis)
        theirs = latticevectors.get_rotated_strain_map(theirs, np.cos(angle), np.sin(angle), flip_theta=False)
        for name, label in zip(COMPONENTS, ("e_xx", "e_yy", "e_xy", "theta"), strict=True):
            # theirs is the infinitesimal strain: equal up to second order
            assert np.allclose(getattr(ours, name), theirs.get_slice(label).data, atol=1e-6), name


def test_strain_sigma_agrees_with_perturbation():
    random = np.random.default_rng(0)
    g = G @ np.linalg.inv(deformation(0.01, -0.02, 0.015, 0.02))
    root = np.array([[2e-2, 0, 0, 0], [5e-3, 1e-2, 0, 0], [6e-3, -2e-3, 1.3e-2, 0], [0, 4e-3, -6e-3, 9e-3]])
    cov = root @ root.T
    jitter = (random.standard_normal((20000, 4)) @ root.T).reshape(-1, 2, 2)
    mirrored = np.array([[0.8, 0.6], [0.6, -0.8]])
    for axis, scan in ((0.0, None), (25.0, None), (25.0, mirrored)):
        spread = strain_components(g + jitter, G, axis, None, scan).std(axis=0)
        assert np.allclose(strain_sigma(g[None], cov[None], G, axis, None, scan)[0], spread, rtol=0.05)


def test_positions_without_a_lattice_are_nan_with_a_reason():
    f = np.tile(np.eye(2), (2, 4, 1, 1))
    table = table_of(f)
    lists = [{k: p[k] for k in p.dtype.names} for p in table]
    lists[1] = {k: v[:0] for k, v in lists[1].items()}
    lists[2] = {k: v[:3] for k, v in lists[2].items()}
    on_line = np.abs(lists[3]["row"] - 128 - (lists[3]["col"] - 128) * G[0, 0] / G[0, 1]) < 1
    lists[3] = {k: v[on_line] for k, v in lists[3].items()}
    random = np.random.default_rng(0)
    lists[4] = {
        **lists[4],
        "row": random.uniform(10, 240, len(lists[4]["row"])),
        "col": random.uniform(10, 240, len(lists[4]["row"])),
    }
    strain = fit_strain(PeakTable.from_lists(lists, (2, 4)))
    assert [REASONS[i] for i in strain.reason.ravel()[[0, 1, 2]]] == ["fitted", "too few disks", "too few disks"]
    assert REASONS[strain.reason.ravel()[3]] == "disks on a line"
    assert strain.reason.ravel()[4] not in (0, 1)
    bad = ~strain.mask
    assert bad.sum() == 4
    for name in COMPONENTS:
        assert np.isnan(getattr(strain, name)[bad]).all()
        assert np.isfinite(getattr(strain, name)[~bad]).all()
    assert np.isnan(strain.sigma[bad]).all() and np.isnan(strain.g1[bad]).all() and np.isnan(strain.residual_px[bad]).all()


def test_outliers_and_false_disks_do_not_pull_the_fit():
    f = np.tile(deformation(0.01, 0, 0, 0), (1, 3, 1, 1))
    table = table_of(f)
    lists = [{k: p[k].copy() for k in p.dtype.names} for p in table]
    for p in lists:
        p["row"][3] += 5.0
        p["col"][7] -= 4.0
    strain = fit_strain(PeakTable.from_lists(lists, (1, 3)), g1=tuple(G[0]), g2=tuple(G[1]), reference="lattice")
    assert np.allclose(strain.exx, 0.01, atol=5e-4)


def test_single_position_and_single_row():
    for shape in ((1, 1), (1, 5), (5, 1)):
        strain = fit_strain(table_of(np.tile(np.eye(2), (*shape, 1, 1))))
        assert strain.shape == shape
        assert strain.mask.all() and np.allclose(strain.exx, 0, atol=1e-9)


def test_reference_region_mask_and_errors():
    f = np.tile(np.eye(2), (3, 3, 1, 1))
    f[:, 2] = deformation(0.02, 0, 0, 0)
    table = table_of(f)
    region = fit_strain(table, reference=(0, 3, 0, 2))
    mask = np.zeros((3, 3), bool)
    mask[:, :2] = True
    assert np.allclose(region.exx, fit_strain(table, reference=mask).exx)
    assert np.allclose(region.exx[:, 2], 0.02, atol=1e-9)
    assert region.evidence.reference_inliers == 6
    with pytest.raises(EmdlError, match="does not lie"):
        fit_strain(table, reference=(0, 9, 0, 2))
    with pytest.raises(EmdlError, match="mask has shape"):
        fit_strain(table, reference=np.ones((2, 2), bool))
    with pytest.raises(EmdlError, match="needs g1 and g2"):
        fit_strain(table, reference="lattice")
    with pytest.raises(EmdlError, match="both g1 and g2"):
        fit_strain(table, g1=(20.0, 0.0))
    with pytest.raises(EmdlError, match="parallel"):
        fit_strain(table, g1=(20.0, 0.0), g2=(40.0, 0.0))
    with pytest.raises(EmdlError, match="there is no parameter"):
        fit_strain(table, axis=3)
    with pytest.raises(EmdlError, match="no disk above"):
        fit_strain(table, min_score=1e9)


LATTICES = {
    "square": [[30.0, 0.0], [0.0, 30.0]],
    "hexagonal": [[26.0, 0.0], [13.0, 22.5]],
    "oblique": [[24.0, 4.0], [-7.0, 33.0]],
    "centred": [[20.0, 14.0], [20.0, -14.0]],
}


@pytest.mark.parametrize("name", LATTICES)
@pytest.mark.parametrize("missing", [0.0, 0.35])
def test_basis_is_found_whatever_the_lattice_and_with_orders_missing(name, missing):
    g = np.array(LATTICES[name])
    random = np.random.default_rng(2)
    f = np.stack([deformation(*random.uniform(-0.02, 0.02, 4)) for _ in range(30)]).reshape(5, 6, 2, 2)
    table = table_of(f, g, noise_px=0.2)
    table = table.where(random.random(table.n_peaks) >= missing)
    basis = find_basis(table, np.array([128.0, 128.0]))
    change = basis.g @ np.linalg.inv(g)
    assert np.allclose(change, np.rint(change), atol=0.08)
    assert abs(np.linalg.det(np.rint(change))) == pytest.approx(1)
    assert basis.indexed_fraction > 0.95


def test_systematically_absent_orders_give_the_lattice_that_is_there():
    table = table_of(np.tile(np.eye(2), (3, 3, 1, 1)), np.array([[15.0, 0.0], [0.0, 15.0]]))
    hk = np.rint((table.positions_px() - 128) / 15).astype(int)
    even = table.where(hk.sum(axis=1) % 2 == 0)
    found = find_basis(even, np.array([128.0, 128.0])).g
    assert abs(np.linalg.det(found)) == pytest.approx(2 * 15**2, rel=0.02)


@given(st.integers(-3, 3), st.integers(-3, 3))
def test_reduced_basis_spans_the_same_lattice(m, n):
    mixed = np.array([[1, m], [0, 1]]) @ np.array([[1, 0], [n, 1]]) @ G
    reduced = reduce_basis(mixed)
    change = reduced @ np.linalg.inv(G)
    assert np.allclose(change, np.rint(change), atol=1e-9)
    assert np.linalg.det(reduced) == pytest.approx(abs(np.linalg.det(G)))
    assert np.linalg.norm(reduced, axis=1).max() <= np.linalg.norm(G, axis=1).max() + 1e-9


def test_clicked_vectors_are_moved_onto_the_lattice():
    table = table_of(np.tile(np.eye(2), (2, 2, 1, 1)))
    strain = fit_strain(table, g1=(27.5, 2.0), g2=(-1.0, 25.0))
    assert np.allclose(strain.attrs["basis_g"], G, atol=1e-6)
    assert strain.attrs["basis_source"] == "given"


def test_lattice_filter_takes_out_what_lies_between():
    table = table_of(np.tile(np.eye(2), (2, 2, 1, 1)), noise_px=0.1)
    lists = [{k: np.r_[p[k], p[k][:2]] for k in p.dtype.names} for p in table]
    for p in lists:
        p["row"][-2:] += 11.0
    dirty = PeakTable.from_lists(lists, (2, 2))
    kept = lattice_consistent(dirty)
    assert kept.sum() == table.n_peaks
    assert all(not keep[-2:].any() for keep in np.split(kept, 4))


def test_segment_sums_and_medians_with_empty_positions():
    segments = Segments(np.array([0, 0, 3, 3, 5, 5]))
    v = np.array([3.0, 1.0, 2.0, 10.0, np.nan])
    assert np.allclose(segments.sum(np.nan_to_num(v)), [0, 6, 0, 10, 0])
    assert np.allclose(segments.median(v)[[1, 3]], [2, 10], rtol=1e-6)
    assert np.isnan(segments.median(v)[[0, 2, 4]]).all()


def test_fit_of_all_positions_equals_least_squares_of_one():
    table = table_of(np.tile(np.eye(2), (2, 3, 1, 1)), noise_px=0.05)
    fit = fit_lattices(table.positions_px(), np.ones(table.n_peaks), table.offset, np.array([128.0, 128.0]), G)
    rows = slice(int(table.offset[4]), int(table.offset[5]))
    design = np.c_[np.ones(rows.stop - rows.start), fit.hk[rows]]
    plain = np.linalg.lstsq(design, table.positions_px()[rows], rcond=None)[0]
    assert np.allclose(fit.g[4], plain[1:], atol=0.02)
    assert np.allclose(fit.origin[4], plain[0], atol=0.03)


def test_origin_is_measured_and_fitted_robustly():
    y, x = np.mgrid[:6, :8]
    true = np.stack([60 + 0.3 * y - 0.1 * x, 64 - 0.2 * y + 0.25 * x], axis=-1)
    raw = true + 0.02 * np.random.default_rng(0).standard_normal(true.shape)
    raw[2, 3] += 9
    raw[4, 4] = np.nan
    origin, inliers = fit_origin(raw, "plane")
    assert np.abs(origin - true).max() < 0.05
    assert not inliers[2, 3] and not inliers[4, 4] and inliers.sum() == 46
    assert np.isfinite(fit_origin(raw, "measured")[0]).all()
    assert np.allclose(fit_origin(raw, "constant")[0], np.nanmedian(raw, axis=(0, 1)), atol=0.5)
    bowl = true + 0.01 * (x[..., None] - 4) ** 2
    assert np.abs(fit_origin(bowl, "parabola")[0] - bowl).max() < 1e-3
    with pytest.raises(EmdlError, match="no central disk"):
        fit_origin(np.full((2, 2, 2), np.nan))


def test_central_disk_is_told_from_a_brighter_neighbour():
    table = table_of(np.tile(np.eye(2), (3, 3, 1, 1)))
    lists = [{k: p[k].copy() for k in p.dtype.names} for p in table]
    outshone = int(np.argsort(-lists[4]["intensity"])[1])
    lists[4]["intensity"][outshone] = 1e6
    origin = measure_origin(PeakTable.from_lists(lists, (3, 3)))
    assert np.allclose(origin, 128, atol=1e-6)


def test_ellipse_is_measured_on_a_square_lattice_and_taken_out():
    ellipse = Ellipse(1.03, 1 / 1.03, 0.4)
    g = np.array([[30.0, 0.0], [0.0, 30.0]]) @ ellipse.matrix().T
    found = ellipse_of_lattice(g)
    assert np.allclose(found.matrix(), ellipse.matrix(), atol=1e-9)
    table = table_of(np.tile(np.eye(2), (2, 2, 1, 1)), g)
    calibrated = calibrate(table, CalibrateParams(ellipticity=True), Calibration(q_pixel_invA=(0.02, 0.02)))
    q = np.linalg.norm(calibrated.to_reciprocal(table), axis=1)
    shortest = np.sort(q[q > 0.1])[:16]
    assert np.ptp(shortest) < 1e-6
    assert shortest[0] == pytest.approx(0.6, rel=1e-6)


def test_bragg_vector_map_gathers_disks_on_lattice_points():
    table = table_of(np.tile(np.eye(2), (4, 4, 1, 1)))
    image = bragg_vector_map(table, np.array([128.0, 128.0]), (256, 256))
    assert image.sum() == pytest.approx(table.column("intensity").sum(), rel=1e-4)
    assert np.unravel_index(image.argmax(), image.shape) == (128, 128)


def test_rotation_and_flip_turn_the_strain_into_the_scan_as_py4dstem_turns_vectors():
    table = table_of(np.tile(deformation(0.01, -0.02, 0.004, 0.003), (3, 3, 1, 1)))
    straight = emdl.fit_strain(table, g1=tuple(G[0]), g2=tuple(G[1]), reference="lattice")
    assert straight.attrs["axes"]["frame"] == "detector"
    assert "unknown" in straight.attrs["axes"]["text"]
    e = np.array([[straight.exx[1, 1], straight.exy[1, 1]], [straight.exy[1, 1], straight.eyy[1, 1]]])
    for angle, flip in ((90.0, False), (30.0, False), (30.0, True), (0.0, True)):
        turned = emdl.fit_strain(
            table,
            g1=tuple(G[0]),
            g2=tuple(G[1]),
            reference="lattice",
            calibrate=CalibrateParams(rotation_deg=angle, flip=flip),
        )
        cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
        move = np.array([[cos, -sin], [sin, cos]]) @ (np.eye(2)[::-1] if flip else np.eye(2))
        expected = move @ e @ move.T
        got = [turned.exx[1, 1], turned.eyy[1, 1], turned.exy[1, 1]]
        assert got == pytest.approx([expected[0, 0], expected[1, 1], expected[0, 1]], abs=1e-9)
        assert turned.theta_rad[1, 1] == pytest.approx((-1 if flip else 1) * straight.theta_rad[1, 1], abs=1e-9)
        assert turned.attrs["axes"] | {"text": ""} == {
            "frame": "scan",
            "axis_deg": 0.0,
            "rotation_deg": pytest.approx(angle),
            "flip": flip,
            "source": "user",
            "text": "",
        }


def test_origin_behind_a_beam_stop_is_the_point_the_disks_lie_around():
    table = table_of(np.tile(deformation(0.01, 0.0, 0.0, 0.0), (3, 4, 1, 1)))
    far = np.linalg.norm(table.positions_px() - CENTRE, axis=1)
    behind = (far < 0.5 * np.linalg.norm(G[0])) | ((np.abs(table.positions_px() - CENTRE)[:, 1] < 6) & (far < 30))
    brightness = np.where(np.linalg.norm(table.positions_px() - CENTRE - G[1], axis=1) < 8, 50.0, 1.0)
    hidden = table.with_columns(intensity=brightness.astype(np.float32)).where(~behind)
    strain = emdl.fit_strain(hidden, reference="lattice", g1=tuple(G[0]), g2=tuple(G[1]))
    assert np.nanmedian(strain.origin_px, axis=(0, 1)) == pytest.approx(CENTRE, abs=0.1)
    assert any("beam stop" in text for text in strain.evidence.warnings)
    seen = emdl.fit_strain(table, reference="lattice", g1=tuple(G[0]), g2=tuple(G[1]))
    assert not any("beam stop" in text for text in seen.evidence.warnings)
    given = emdl.fit_strain(
        hidden, reference="lattice", g1=tuple(G[0]), g2=tuple(G[1]), calibrate=CalibrateParams(origin=tuple(CENTRE))
    )
    assert not given.evidence.warnings
    assert np.nanmedian(given.origin_px, axis=(0, 1)) == pytest.approx(CENTRE, abs=0.1)


def test_provenance_names_reference_and_basis(tmp_path):
    table = table_of(np.tile(np.eye(2), (4, 4, 1, 1)))
    found = emdl.fit_strain(table, reference=(0, 2, 0, 4))
    emdl.save(found, tmp_path / "strain.h5")
    record = emdl.load(tmp_path / "strain.h5").attrs["provenance"]
    assert record["reference"]["region"] == [0, 2, 0, 4]
    assert record["reference"]["positions"] == 8
    assert record["basis"]["source"] == "found"
    assert "difference vectors" in record["basis"]["how"]
    assert record["axes"]["frame"] == "detector"
    assert record["params"]["strain"]["min_disks"] == 5
    mask = np.zeros((4, 4), bool)
    mask[2:] = True
    masked = emdl.fit_strain(table, reference=mask, g1=tuple(G[0]), g2=tuple(G[1]))
    assert masked.attrs["provenance"]["reference"]["how"] == "median of the fitted positions of a mask"
    assert "given by the user" in masked.attrs["provenance"]["basis"]["how"]


def test_spread_of_a_uniform_region_stands_beside_the_error():
    table = table_of(np.tile(np.eye(2), (6, 6, 1, 1)), noise_px=0.1)
    region = (0, 6, 0, 4)
    honest = emdl.fit_strain(table, reference=region)
    found = honest.attrs["reference_source"]["spread"]["exx"]
    assert found["spread"] == pytest.approx(np.std(honest.exx[:, :4]), rel=0.05)
    assert found["spread"] == pytest.approx(found["sigma"], rel=0.4)
    assert not honest.evidence.warnings
    breathing = np.tile(np.eye(2), (6, 6, 1, 1)) * (1 + 0.004 * np.random.default_rng(0).standard_normal((6, 6, 1, 1)))
    uneven = emdl.fit_strain(table_of(breathing, noise_px=0.02), reference=region)
    assert any("errors are too small" in text for text in uneven.evidence.warnings)
    assert "spread" not in emdl.fit_strain(table).attrs["reference_source"]


def test_a_disk_counts_along_the_direction_it_is_sure_of():
    random = np.random.default_rng(3)
    table = table_of(np.tile(np.eye(2), (20, 20, 1, 1)))
    n = table.n_peaks
    row, col = random.uniform(0.02, 0.6, (2, n))
    rho = random.uniform(-0.9, 0.9, n)
    noise = random.standard_normal((2, n))
    moved = table.with_columns(
        row=table.column("row") + row * noise[0],
        col=table.column("col") + col * (rho * noise[0] + np.sqrt(1 - rho**2) * noise[1]),
        sigma_px=np.sqrt((row**2 + col**2) / 2),
        sigma_row_px=row,
        sigma_col_px=col,
        rho=rho,
    )
    known = {"reference": "lattice", "g1": tuple(G[0]), "g2": tuple(G[1])}
    directed = emdl.fit_strain(moved, **known)
    plain = emdl.fit_strain(PeakTable(moved.shape, moved.offset, {f: moved.column(f) for f in table.fields}), **known)
    errors = [np.sqrt(np.mean(np.stack([s.exx, s.eyy, s.exy]) ** 2)) for s in (directed, plain)]
    assert errors[0] < 0.6 * errors[1]
    ratio = np.stack([directed.exx, directed.eyy, directed.exy], axis=-1) / directed.sigma[..., :3]
    assert 0.75 < np.sqrt(np.mean(ratio**2)) < 1.2


def test_sample_strain_is_recovered_by_template_matching():
    from napari_emdl.samples.diffraction import strained_datacube

    cube, truth = strained_datacube((6, 20), seed=1)
    disks = emdl.find_disks(cube, probe=truth["probe"], method="template")
    strain = emdl.fit_strain(disks, reference=truth["reference"])
    use = truth["crystal"] & strain.mask
    assert use.sum() >= 0.95 * truth["crystal"].sum()
    assert not strain.mask[~truth["crystal"]].any()
    for name in ("exx", "eyy", "exy"):
        error = (getattr(strain, name) - truth[name])[use]
        assert np.sqrt(np.mean(error**2)) < 0.004
    layer = truth["eyy"] > 0.02
    gain = (strain.eyy[use & layer] * truth["eyy"][use & layer]).sum() / (truth["eyy"][use & layer] ** 2).sum()
    assert gain == pytest.approx(1, abs=0.1)
    again, _ = strained_datacube((6, 20), seed=1)
    assert np.array_equal(cube.data, again.data)
