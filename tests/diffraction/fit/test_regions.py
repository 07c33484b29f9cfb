"""Scans of several lattices: regions with a lattice and reference each, and finding them."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

import napari_emdl as emdl
from helpers.disks_made import G, deformation, table_of
from napari_emdl.base.errors import EmdlError
from napari_emdl.base.params import RegionParams, StrainParams
from napari_emdl.base.peaks import PeakTable
from napari_emdl.diffraction.fit.regions import fit_strain_regions, read_regions
from napari_emdl.diffraction.fit.segment import segment_positions
from napari_emdl.diffraction.fit.strain import COMPONENTS, REASONS, fit_strain

#: A second phase: another shape of the cell, turned.
G2 = np.array([[17.0, 12.0], [-16.0, 20.0]])
ROWS, COLS = 6, 10


def two_phases(noise_px=0.03):
    """Left half on G, right half on G2, both with known strain but for their first column; truth (R, C, 4) and labels."""
    random = np.random.default_rng(5)
    truth = random.uniform(-0.02, 0.02, (ROWS, COLS, 4))
    truth[:, [0, 5]] = 0
    f = np.stack([deformation(*t) for t in truth.reshape(-1, 4)]).reshape(ROWS, COLS, 2, 2)
    labels = np.ones((ROWS, COLS), np.uint8)
    labels[:, 5:] = 2
    parts = [table_of(f[:, :5], G, noise_px=noise_px), table_of(f[:, 5:], G2, noise_px=noise_px)]
    lists = [{k: p[k] for k in p.dtype.names} for r in range(ROWS) for part in parts for p in (part[r, c] for c in range(5))]
    table = PeakTable.from_lists(lists, (ROWS, COLS))
    table.attrs["detector_shape"] = (256, 256)
    return table, truth * [1, 1, 1, -1], labels


def values(strain):
    return np.stack([getattr(strain, name) for name in COMPONENTS], axis=-1)


def test_each_region_has_its_own_lattice_and_reference():
    table, truth, labels = two_phases()
    one = fit_strain(table, lattices="one")
    assert one.mask.mean() < 0.7 and one.region is None  # one lattice cannot explain both
    reference = np.zeros((ROWS, COLS), bool)
    reference[:, [0, 5]] = True
    strain = fit_strain(table, regions=labels, reference=reference)
    assert strain.mask.all() and np.array_equal(strain.region, labels)
    assert np.abs(values(strain) - truth).max() < 2e-3
    facts = strain.attrs["regions"]
    assert [facts[n]["fitted"] for n in "12"] == [30, 30] and facts["2"]["reference_inliers"] == 6
    np.testing.assert_allclose(abs(np.linalg.det(facts["2"]["reference_g"])), abs(np.linalg.det(G2)), rtol=5e-3)
    np.testing.assert_allclose(strain.reference_g_at((0, 9)), facts["2"]["reference_g"])
    np.testing.assert_allclose(strain.reference_g_at((0, 0)), strain.reference_g)
    assert strain.evidence.indexed_fraction > 0.95 and strain.evidence.warnings == ()


def test_a_region_alone_is_fitted_as_if_the_rest_were_not_there():
    table, _, labels = two_phases()
    alone = fit_strain(
        table.where((labels.ravel() == 1)[table.flat_index()]), calibration=fit_strain(table, lattices="one").calibration
    )
    strain = fit_strain(table, regions=np.where(labels == 1, 7, 0))
    np.testing.assert_array_equal(strain.exx[:, :5], alone.exx[:, :5])
    assert [REASONS[i] for i in np.unique(strain.reason[:, 5:])] == ["outside the regions"]
    assert np.isnan(strain.exx[:, 5:]).all() and list(strain.attrs["regions"]) == ["7"]


def test_lattice_and_reference_of_single_regions():
    table, truth, labels = two_phases(noise_px=0.0)
    phases = (
        RegionParams(label=1, name="matrix", g1=tuple(G[0]), g2=tuple(G[1]), reference_lattice=True),
        RegionParams(label=2, reference=(0, ROWS, 5, 6)),
    )
    strain = fit_strain_regions(table, labels, params=StrainParams(phases=phases))
    assert np.abs(values(strain) - truth).max() < 1e-6
    assert strain.attrs["regions"]["1"]["name"] == "matrix" and strain.attrs["regions"]["1"]["reference_inliers"] == 0
    touched = fit_strain(table, regions=labels, reference=(0, ROWS, 0, 1))
    assert any("region 2" in text and "median of its own" in text for text in touched.evidence.warnings)


def test_a_region_without_a_lattice_is_masked_and_told():
    table, _, labels = two_phases()
    lists = [{k: p[k] for k in p.dtype.names} for p in table]
    for i in np.flatnonzero(labels.ravel() == 2):
        lists[i] = {k: v[:1] for k, v in lists[i].items()}
    thin = PeakTable.from_lists(lists, (ROWS, COLS))
    strain = fit_strain(thin, regions=labels)
    assert strain.mask[:, :5].all() and not strain.mask[:, 5:].any()
    assert {REASONS[i] for i in strain.reason[:, 5:].ravel()} == {"too few disks"}
    assert any(text.startswith("region 2: no lattice was found") for text in strain.evidence.warnings)
    with pytest.raises(EmdlError, match="region 2: no lattice"):
        fit_strain(thin, regions=np.where(labels == 2, 2, 0))


def test_positions_are_grouped_by_their_lattice():
    table, _, labels = two_phases()
    np.testing.assert_array_equal(segment_positions(table, 1), 1)
    found = segment_positions(table, 2)
    assert np.array_equal(found, labels) or np.array_equal(found, 3 - labels)
    # the same cell, turned by two degrees: a grain
    turned = np.tile(deformation(0, 0, 0, np.radians(2.0)), (4, 12, 1, 1))
    turned[:, :7] = np.eye(2)
    grains = segment_positions(table_of(turned, noise_px=0.1), 2)
    assert (grains[:, :7] == 1).all() and (grains[:, 7:] == 2).all()
    few = table.where((np.arange(ROWS * COLS) >= 3)[table.flat_index()])
    assert (segment_positions(few, 2).ravel()[:3] == 0).all()
    with pytest.raises(EmdlError, match="too few for 2"):
        segment_positions(table.where(np.zeros(table.n_peaks, bool) | (table.flat_index() == 0)), 2)


@pytest.mark.referee
def test_regions_are_saved_exported_and_read_by_py4dstem(tmp_path):
    table, _, labels = two_phases()
    strain = fit_strain(table, regions=labels)
    path = emdl.save(strain, tmp_path / "strain.h5")
    again = emdl.load(path)
    np.testing.assert_array_equal(again.region, labels)
    np.testing.assert_allclose(again.reference_g_at((0, 9)), strain.reference_g_at((0, 9)))
    from napari_emdl.exporting.folder import export

    names = {file.name for file in export(strain, tmp_path / "out", parts=("csv", "tiff", "json"))}
    assert "region.ome.tif" in names
    np.testing.assert_array_equal(read_regions(tmp_path / "out" / "region.ome.tif", labels.shape), labels)
    assert "region" in (tmp_path / "out" / "strain.csv").read_text().splitlines()[0]
    with h5py.File(path) as file:
        assert [name.decode() for name in file["strainmap_root/strainmap/dim2"][()]][-1] == "region"
    py4dstem = pytest.importorskip("py4DSTEM")
    np.testing.assert_array_equal(py4dstem.read(str(path)).get_slice("region").data, labels)


def test_the_command_line_takes_a_label_image(tmp_path, capsys):
    import tifffile

    from napari_emdl.cli import main

    table, _, labels = two_phases()
    emdl.save(table, tmp_path / "disks.h5")
    tifffile.imwrite(tmp_path / "phases.tif", labels)
    main(["strain", str(tmp_path / "disks.h5"), "-o", str(tmp_path / "s.h5"), "--regions", str(tmp_path / "phases.tif")])
    assert "region 2: 30 of 30 positions" in capsys.readouterr().out
    assert np.array_equal(emdl.load(tmp_path / "s.h5").region, labels)


@pytest.mark.parametrize(
    ("regions", "line"),
    [
        (np.ones((2, 2), int), "the regions are 2 x 2, the scan is 6 x 10"),
        (np.zeros((ROWS, COLS)), "no position belongs to a region"),
        (np.full((ROWS, COLS), 0.5), "whole numbers"),
        (np.arange(60).reshape(ROWS, COLS), "at most 32"),
    ],
)
def test_labels_that_make_no_sense_are_told(regions, line):
    with pytest.raises(EmdlError, match=line):
        fit_strain(two_phases()[0], regions=regions)


def test_files_that_cannot_be_read_are_told(tmp_path):
    (tmp_path / "a.npy").write_bytes(b"no array")
    with pytest.raises(EmdlError, match="not a readable"):
        read_regions(tmp_path / "a.npy", (2, 2))
    with pytest.raises(EmdlError, match=r"missing\.tif cannot be read"):
        read_regions(tmp_path / "missing.tif", (2, 2))
