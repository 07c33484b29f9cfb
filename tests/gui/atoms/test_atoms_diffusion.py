"""The surface diffusion panel in a real window: from the movie to heatmap, events, rates and files by clicking."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest

from napari_emdl.base.params import ColumnParams
from napari_emdl.base.signals import in_memory
from napari_emdl.gui import layers
from napari_emdl.gui.atoms.diffusion import DiffusionPanel
from napari_emdl.samples.atoms import Conditions, blinking_movie

pytestmark = pytest.mark.gui


def threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("napari-emdl")]


@pytest.fixture(scope="module")
def sample():
    return blinking_movie((24, 144, 144), seed=3, conditions=Conditions(p_off=0.15, p_on=0.25, dose_e_per_A2=400.0))


def open_panel(viewer, movie) -> DiffusionPanel:
    panel = DiffusionPanel(viewer)
    viewer.window.add_dock_widget(panel)
    panel.session.data.settings.columns = ColumnParams(model="log", contrast="bright")
    for data in layers.signal_layers(movie):
        viewer._add_layer_from_data(*data)
    return panel


@pytest.fixture
def fitted(make_napari_viewer, sample, wait_until):
    """Panel with a fitted movie, by its own button only."""
    panel = open_panel(make_napari_viewer(show=True), sample[0])
    wait_until(lambda: panel.fit_button.isEnabled())
    assert panel.fit_button.text() == "Find columns and fit"
    panel.fit_button.click()
    wait_until(lambda: panel.session.occupancy is not None and panel.fitting.job is None, 60, "the fit")
    return panel


def test_heatmap_and_trace_agree_with_the_truth(fitted, sample):
    movie, truth = sample
    occupancy, sites = fitted.session.occupancy, fitted.layers.sites
    assert len(sites.data) == occupancy.n_sites == len(sites.features)
    assert sites.face_contrast_limits == (0, 100) and sites.face_colorbar.visible
    assert fitted.layers.mean.visible and not fitted.session.layer.visible
    offset = truth.drift_px[0] - occupancy.shift_px[0]
    distance = np.hypot(*(truth.sites_px[:, None] + offset - occupancy.sites_px[None]).transpose(2, 0, 1))
    near = distance.argmin(1)
    ok = distance.min(1) * movie.pixel_A < 0.6
    assert ok.mean() > 0.9
    share = 100 * truth.occupied.mean(0)
    assert np.abs(sites.features["occupancy_pct"].to_numpy()[near[ok]] - share[ok]).mean() < 8
    site = int(near[ok][np.argmax(truth.blinking[ok])])
    fitted.choose_site(site)
    assert f"Site {site}" in fitted.site_tab.text.text()
    np.testing.assert_allclose(fitted.site_tab.trace._curve.yData, occupancy.p_occupied[:, site], atol=1e-6)


def test_events_are_clicked_and_filtered(fitted):
    fitted.tabs.setCurrentWidget(fitted.events)
    events = fitted.events
    assert events.filter.rowCount() == len(fitted.session.occupancy.events) > 0
    frames = [events.filter.index(r, 0).data() for r in range(events.filter.rowCount())]
    assert [int(f) for f in frames] == sorted(int(f) for f in frames)
    row = events.filter.rowCount() - 1
    events.view.clicked.emit(events.filter.index(row, 0))
    frame = int(frames[row])
    assert fitted.session.frame == frame == fitted.viewer.dims.current_step[0]
    assert fitted.site_tab.site is not None
    here = fitted.session.occupancy.events["frame"] == frame
    assert len(fitted.layers.events.data) == here.sum()
    all_events = fitted.session.occupancy.events
    events.kind.setCurrentIndex(events.kind.findData("vanished"))
    assert events.filter.rowCount() == int((~all_events["arrives"]).sum())
    site = int(all_events["site"][0])
    events.kind.setCurrentIndex(0)
    events.show_site(site)
    assert events.filter.rowCount() == int((all_events["site"] == site).sum())
    assert f"of {len(all_events)} events" in events.count.text()


def test_sites_follow_the_drift_over_the_movie(fitted):
    occupancy = fitted.session.occupancy
    fitted.over_movie.click()
    assert fitted.session.layer.visible and not fitted.layers.mean.visible
    fitted.viewer.dims.set_current_step(0, 20)
    np.testing.assert_allclose(fitted.layers.sites.data, occupancy.positions_in_frame(20))
    fitted.over_mean.click()
    np.testing.assert_allclose(fitted.layers.sites.data, occupancy.sites_px)
    fitted.heatmap.setCurrentText("Transitions")
    assert fitted.layers.sites.face_contrast_limits[1] == pytest.approx(fitted.layers.sites.features["transitions_pct"].max())


def test_threshold_is_table_work_and_rates_follow(fitted, wait_until, monkeypatch):
    import napari_emdl.atoms.find.columns as core

    monkeypatch.setattr(core, "make_finder", lambda *_: pytest.fail("the slider must not run a finder"))
    before = fitted.session.occupancy
    fitted.threshold.slider.setValue(190)
    wait_until(lambda: fitted.session.occupancy is not before, what="the new threshold")
    wait_until(lambda: not fitted.fitting.latest.busy)
    after = fitted.session.occupancy
    assert after.attrs["min_score"] == pytest.approx(0.95)
    assert after.detected.sum() < before.detected.sum() and after.n_sites <= before.n_sites
    assert len(fitted.layers.sites.data) == after.n_sites
    fitted.threshold.default_button.click()
    wait_until(lambda: fitted.session.occupancy.n_sites == before.n_sites)
    rates = fitted.session.occupancy.rates
    table = fitted.rates.table
    assert [table.horizontalHeaderItem(c).text() for c in range(1, table.columnCount())] == rates["group"].tolist()
    titles = {table.item(r, 0).text(): r for r in range(table.rowCount())}
    assert table.item(titles["vanish %"], 1).text() == f"{100 * rates['p_off'][0]:.1f}"
    site_frames = np.maximum(1, rates["site_frames"])
    below = [table.item(r, 0).text().strip() for r in range(titles["vanish %"] + 1, titles["appear %"])]
    in_frames = table.item(titles["vanish %"] + 1 + below.index("/frame"), 1).text()
    assert in_frames == f"{rates['events_off'][0] / site_frames[0]:.2g}"
    assert ("/s" in below) == bool(fitted.session.occupancy.attrs.get("frame_interval_s"))
    assert len(fitted.dwell.plot.listDataItems()) >= 2


def test_sites_are_changed_by_hand(fitted, wait_until):
    before = fitted.session.occupancy
    fitted.choose_site(3)
    fitted.site_tab.remove_button.click()
    assert fitted.session.occupancy.n_sites == before.n_sites - 1 == len(fitted.layers.sites.data)
    fitted.choose_site(0)
    fitted.site_tab.regroup.emit(0, "corner")
    assert fitted.session.occupancy.group_names[0] == "corner"
    assert fitted.layers.sites.features["group"][0] == "corner"
    fitted.site_tab.add_button.setChecked(True)
    fitted.tools.add(8.0, 8.0)
    assert "1 new sites" in fitted.fit_button.text()
    fitted.fit_button.click()
    wait_until(lambda: fitted.fitting.job is None and fitted.session.occupancy.n_sites == before.n_sites, 60, "the new fit")
    np.testing.assert_allclose(fitted.session.occupancy.sites_px[-1], (8, 8))


def test_region_keeps_the_sites_inside(fitted):
    fitted.site_tab.region_button.click()
    assert "polygon" in fitted.project_row.note.text()
    sites = fitted.layers.sites.data
    middle = sites[:, 1].mean()
    fitted.layers.region.add_polygons(np.array([[0, 0], [143, 0], [143, middle], [0, middle]]))
    inside = int((sites[:, 1] <= middle - 1).sum())
    fitted.site_tab.region_button.click()
    assert abs(fitted.session.occupancy.n_sites - inside) <= 2
    assert fitted.layers.region is None


def test_export_save_and_job(fitted, wait_until, tmp_path):
    from napari_emdl.io import load

    caveats = fitted.status.text()
    assert "sites in" in caveats
    fitted.export_to(str(tmp_path / "out"))
    wait_until(lambda: "exported" in fitted.project_row.note.text(), 60, "the export")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"sites.csv", "events.csv", "rates.csv", "annotated.mp4"} <= names
    assert any(name.endswith(".tif") for name in names) and any(name.endswith(".png") for name in names)
    fitted.save_to(str(tmp_path / "o.h5"))
    wait_until(lambda: "saved" in fitted.project_row.note.text())
    np.testing.assert_array_equal(load(tmp_path / "o.h5").occupied, fitted.session.occupancy.occupied)
    fitted.project_row.save_job(tmp_path / "job.yaml")
    assert "not a file" in fitted.project_row.note.text() and not (tmp_path / "job.yaml").exists()
    assert fitted.status.text() == caveats, "no message pushes them away"
    first = fitted.session.occupancy
    fitted.compare.keep_button.click()
    assert "kept" in fitted.compare.text.text()
    other = replace(first, attrs={**first.attrs, "dose_e_per_A2": 10.0})
    fitted.session.set_occupancy(other)
    wait_until(lambda: fitted.compare.comparison is not None)
    rows = fitted.compare.comparison.rows
    assert rows and all(row.low <= 1 <= row.high and not row.different for row in rows)
    assert fitted.compare.table.rowCount() == len(rows)
    job = fitted.export_to(str(tmp_path / "cut short"))
    assert job.running
    fitted.viewer.close()
    wait_until(lambda: not threads(), what="the end of the export")


def test_empty_states_say_what_to_do(make_napari_viewer, sample, wait_until):
    viewer = make_napari_viewer(show=True)
    panel = DiffusionPanel(viewer)
    viewer.window.add_dock_widget(panel)
    assert "Open a movie" in panel.hint.text() and not panel.fit_button.isEnabled()
    frame = in_memory(np.asarray(sample[0].data)[0], "image", sample[0].calibration, name="one")
    for data in layers.signal_layers(frame):
        viewer._add_layer_from_data(*data)
    wait_until(lambda: "single image" in panel.hint.text())
    assert not panel.fit_button.isEnabled()
    assert panel.minimumSizeHint().height() < 650 and panel.minimumSizeHint().width() < 450


def test_cancel_and_empty_movie(make_napari_viewer, sample, wait_until):
    noise = np.random.default_rng(0).poisson(5, (12, 96, 96)).astype(np.uint16)
    panel = open_panel(make_napari_viewer(show=True), in_memory(noise * 0 + 7, "movie", sample[0].calibration, name="blank"))
    wait_until(lambda: panel.fit_button.isEnabled())
    panel.fit_button.click()
    wait_until(lambda: panel.fitting.job is None)
    assert panel.status.text() and "unexpected" not in panel.status.text()
    assert panel.session.occupancy is None
    panel.fit_button.click()
    panel.bar.cancel()
    wait_until(lambda: panel.fitting.job is None and not threads(), 5, "the end of the job")
