"""The desk of the 4D-STEM workspace: one datacube at a time, what cannot be opened, what is true while a run goes on."""

from __future__ import annotations

import time

import numpy as np
import pytest

from helpers.workspace import run_all, show
from napari_emdl.base.signals import Datacube, Movie, in_memory
from napari_emdl.gui.kit import notices, session
from napari_emdl.gui.kit.open_dialog import OpenDialog
from napari_emdl.gui.kit.session import role_of, tag_of
from napari_emdl.gui.kit.signals import signal_layers

pytestmark = pytest.mark.gui


@pytest.fixture
def panel(make_napari_viewer, small_sample, wait_until):
    shown = show(make_napari_viewer(show=True), small_sample[0])
    wait_until(lambda: shown.state.found.live is not None, what="live disks")
    return shown


def visible(viewer, signal=None) -> list[str]:
    return [role_of(la) for la in viewer.layers if la.visible and (signal is None or tag_of(la).get("signal") is signal)]


def add(viewer, cube) -> None:
    for data in signal_layers(cube):
        viewer._add_layer_from_data(*data)


def test_a_second_datacube_puts_the_first_aside_and_the_switcher_brings_it_back(panel, small_sample, wait_until):
    first, viewer = small_sample[0], panel.viewer
    run_all(panel, wait_until)
    panel.strain_step.draw_region()
    panel.strain_step.reference.setCurrentText("drawn region")
    panel.thresholds.history.settle()  # a step of its own, however fast the machine is
    panel.lattice_step.take_vectors([(20.0, 0.0), (0.0, 20.0)])
    panel.virtual.add_bright_field()
    wait_until(lambda: panel.state.found.strain is not None and not panel.state.busy and not panel.detectors.busy)
    wait_until(lambda: panel.maps.settled, what="the layers, which are made one by one")
    strain, shown_before = panel.state.found.strain, visible(viewer, first)
    history = panel.thresholds.history
    history.settle()
    assert history.can_undo
    assert not panel.switcher.isVisible()

    second = in_memory(np.asarray(first.data)[:4, ::-1], "datacube", first.calibration, name="second")
    add(viewer, second)
    wait_until(lambda: panel.state.cube is second and panel.state.found.live is not None)
    assert visible(viewer, first) == [] and visible(viewer, second) == ["navigation"]
    assert panel.state.settings.reference is None and panel.strain_step.reference.currentText() == "median of the scan"
    assert panel.state.settings.strain_params.g1 is None and panel.state.found.strain is None
    assert not history.can_undo, "steps of the first do not act on the second"
    assert panel.switcher.isVisible() and panel.switcher.count() == 2 and not panel.detectors.layers()
    unfolded = [step.arrow.isChecked() for step in panel.steps]
    assert unfolded == [False, True, False, False, False], "as in a new panel"
    run_all(panel, wait_until)
    order = [role_of(layer) for layer in viewer.layers if tag_of(layer).get("signal") is not first]
    assert order.index("navigation") < order.index("exx") < order.index("crosshair")
    assert panel.maps.layer("exx").visible

    panel.switcher.activated.emit(0)
    assert panel.state.cube is first and panel.state.found.strain is strain
    wait_until(lambda: visible(viewer, first) == shown_before and visible(viewer, second) == [], what="the layers of the first")
    assert panel.strain_step.arrow.isChecked() and not panel.disks_step.arrow.isChecked()
    wait_until(lambda: panel.maps.settled, what="what is at hand")
    assert viewer.layers.selection.active.visible, "napari's controls are for what is seen"
    assert panel.state.settings.strain_params.g1 == (20.0, 0.0)
    assert panel.lattice_step.form.editors["g1"].get() == (20.0, 0.0)
    assert panel.strain_step.reference.currentText() == "drawn region"
    assert len(panel.detectors.layers()) == 1
    wait_until(lambda: not panel.state.busy)
    assert panel.state.found.strain is strain, "nothing is fitted anew"
    history.undo()
    assert panel.state.settings.strain_params.g1 is None and panel.strain_step.reference.currentText() == "drawn region"


def test_a_movie_puts_the_maps_aside(panel, wait_until):
    frames = np.random.default_rng(1).poisson(9, (4, 32, 32)).astype(np.uint8)
    movie = in_memory(frames, "movie", name="movie")
    assert isinstance(movie, Movie)
    add(panel.viewer, movie)
    viewer, navigation = panel.viewer, panel.maps.layer("navigation")
    assert visible(viewer) == ["movie"], "the cross-hair gives way too"
    assert [str(unit) for unit in viewer.layers.extent.units[-2:]] == ["pixel", "pixel"]
    assert panel.switcher.isVisible()
    panel.switcher.activated.emit(0)
    assert visible(viewer) == ["navigation", "crosshair"]
    for units in (navigation.units, viewer.layers.extent.units[-2:]):  # napari shows none where they do not agree
        assert [str(unit) for unit in units] == ["nanometer", "nanometer"]
    wait_until(lambda: "disks" in viewer.text_overlay.text, what="the values in the corner")
    viewer.add_points([[0.0, 0.0]], metadata=session.tag("columns"))  # found in the movie meanwhile
    wait_until(lambda: visible(viewer) == ["navigation", "crosshair"])
    middle = (np.array(panel.state.cube.scan_shape) - 1) / 2 * navigation.scale
    wait_until(lambda: np.allclose(session.camera_of(viewer).center[-2:], middle, atol=1e-3), what="the view to fit the scan")


def test_a_single_pattern_is_a_scan_of_one_and_is_analysed(make_napari_viewer, small_sample, wait_until, tmp_path):
    np.save(tmp_path / "pattern.npy", np.asarray(small_sample[0].data)[2, 3])
    viewer = make_napari_viewer(show=True)
    panel = session.open_panel(viewer, session.WORKSPACE)
    panel.open_button.open(tmp_path / "pattern.npy")
    wait_until(lambda: panel.state.cube is not None)
    assert panel.state.cube.shape == (1, 1, 64, 64)
    panel.disks_step.form.editors["method"].put("template")
    run_all(panel, wait_until)
    wait_until(lambda: panel.state.found.lattice is not None)
    assert panel.state.found.strain.shape == (1, 1) and panel.state.found.lattice.basis is not None


def test_what_cannot_be_opened_stays_in_the_panel_and_is_asked_for(make_napari_viewer, wait_until, tmp_path, capsys):
    viewer = make_napari_viewer(show=True)
    panel = session.open_panel(viewer, session.WORKSPACE)
    np.save(tmp_path / "stack.npy", np.random.default_rng(2).poisson(4, (12, 16, 16)).astype(np.uint16))
    panel.open_button.open(tmp_path / "stack.npy")
    wait_until(lambda: panel.notices.lines)
    assert "give the scan shape" in panel.notices.lines[0] and panel.notices.isVisible()
    (tmp_path / "broken.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(40))
    viewer.open(str(tmp_path / "broken.h5"), plugin="napari-emdl")
    assert len(panel.notices.lines) == 2 and "broken.h5" in panel.notices.lines[0]
    assert "Traceback" not in capsys.readouterr().err and not len(viewer.layers)
    broken = next(d for d in viewer.window._qt_window.findChildren(OpenDialog) if "broken" in d.windowTitle())
    wait_until(lambda: not broken.busy)
    assert broken.line.text().startswith("⚠") and broken.reason.text() not in broken.line.text(), "the reason is there once"
    broken.reject()
    dialog = panel.open_button.dialog
    assert dialog.isVisible() and dialog.reason.text() == panel.notices.lines[1]
    dialog.editor("shape").setText("3x4")
    dialog.refresh()
    dialog.accept_when_ready()  # pressed at once
    wait_until(lambda: panel.state.cube is not None)
    assert panel.state.cube.shape == (3, 4, 16, 16)
    assert len(panel.notices.lines) == 1, "what was opened after all is refused no longer"
    for line in panel.notices.lines:
        panel.notices.dismiss(line)
    assert not panel.notices.isVisible()


def test_disks_without_their_datacube_give_a_strain_map(panel, make_napari_viewer, wait_until, tmp_path):
    from napari_emdl.io import save

    fitted = []
    panel.state.strain_changed.connect(lambda: fitted.append(panel.state.found.strain))
    run_all(panel, wait_until)
    before = fitted[0]  # of the peaks: without the datacube there are no patterns
    save(panel.state.found.disks, tmp_path / "disks.h5")
    viewer = make_napari_viewer(show=True)
    viewer.open(str(tmp_path / "disks.h5"), plugin="napari-emdl")
    wait_until(lambda: session.registered(viewer, session.WORKSPACE) is not None)
    other = session.registered(viewer, session.WORKSPACE)
    wait_until(lambda: other.state.found.kept is not None)
    run_all(other, wait_until)
    assert "the patterns are not at hand" in other.state.found.strain.attrs["fit"]["text"]
    np.testing.assert_allclose(other.state.found.strain.exx, before.exx, atol=1e-6)
    assert len(other.canvas.layer("disks").data) == len(other.state.data.kept_here()) > 0


class Gated:
    """Datacube that keeps whoever reads more than one pattern waiting while the gate is closed."""

    def __init__(self, data):
        self.data, self.shape, self.dtype, self.open = data, data.shape, data.dtype, True

    def __getitem__(self, index):
        part = self.data[index]
        while part.ndim > 2 and not self.open:
            time.sleep(0.01)
        return part


def test_rings_are_always_of_the_position_under_the_cross_hair(make_napari_viewer, small_sample, wait_until):
    gated = Gated(np.asarray(small_sample[0].data))
    cube = Datacube(gated, "datacube", small_sample[0].calibration, name="gated")
    panel = show(make_napari_viewer(show=True), cube)
    state, canvas = panel.state, panel.canvas
    wait_until(lambda: canvas.layer("disks") is not None and not panel.detectors.busy)
    gated.open = False
    panel.disks_step.run_button.click()
    panel.cross.move_to(3, 3)
    assert len(canvas.layer("disks").data) == 0, "rings of another position"
    wait_until(lambda: state.found.live.position == (3, 3) and len(canvas.layer("disks").data) > 0, what="live during a run")
    assert state.job is not None and state.found.disks is None
    state.live_enabled = False
    panel.cross.move_to(0, 1)
    assert len(canvas.layer("disks").data) == 0
    gated.open = True
    wait_until(lambda: state.found.kept is not None and state.job is None)
    assert len(canvas.layer("disks").data) == len(state.data.kept_here()) > 0
    np.testing.assert_array_equal(panel.maps.layer("count").data, state.found.kept.counts())


def nothing_is_cut_off(panel, qtbot):
    qtbot.wait(100)
    window = panel.viewer.window._qt_window
    for size in ((1366, 740), (900, 620)):
        window.resize(*size)
        qtbot.wait(200)
        for name in ("view", "log", "auto", "rings", "home", "structure"):
            part = getattr(panel.canvas, name)
            assert part.x() + part.width() <= panel.canvas.width() and part.width() >= part.minimumSizeHint().width(), name
        tools = panel.thresholds
        assert tools.x() + tools.width() <= panel.histogram.width() and tools.width() >= tools.minimumSizeHint().width()
    assert panel.frame.height() > 0.95 * panel.height()
    assert panel.frame.scroll_area.height() > 0.6 * panel.height()


def test_before_a_run_the_panel_fills_its_dock_and_says_what_a_run_would_give(panel, make_napari_viewer, wait_until, qtbot):
    wait_until(lambda: panel.outlook.isVisible(), what="an outlook")
    assert "Lattice in" in panel.outlook.text() and "about" in panel.outlook.text()
    nothing_is_cut_off(panel, qtbot)
    noise = np.random.default_rng(3).poisson(2, (6, 8, 64, 64)).astype(np.uint16)
    noise[:, :, 26:38, 26:38] += 40
    other = show(make_napari_viewer(show=True), in_memory(noise, "datacube", name="one disk only"))
    wait_until(lambda: "nothing to strain" in other.outlook.text(), what="the warning")
    assert "no lattice in 20 of 20" in other.outlook.text().lower()


# modes that return, handles, undo


def press(viewer, start, stop=None, steps=5, layer=True):
    """Press at `start` (in pixels of the image), move to `stop` and release, as the canvas hands it on."""
    from napari.utils._test_utils import read_only_mouse_event
    from napari.utils.interactions import mouse_move_callbacks, mouse_press_callbacks, mouse_release_callbacks

    stop = start if stop is None else stop
    scale = np.asarray(viewer.layers[0].scale)

    def event(kind, place):
        place = tuple(np.asarray(place, float) * scale)
        return read_only_mouse_event(
            type=kind, position=place, pos=np.asarray(place), button=1, is_dragging=kind == "mouse_move", dims_displayed=[0, 1]
        )

    def both(callbacks, made):
        callbacks(viewer, made)
        active = viewer.layers.selection.active
        if active is not None and layer:
            callbacks(active, made)

    both(mouse_press_callbacks, event("mouse_press", start))
    for part in np.linspace(0, 1, steps)[1:] if tuple(start) != tuple(stop) else ():
        both(mouse_move_callbacks, event("mouse_move", np.asarray(start) + part * (np.asarray(stop) - np.asarray(start))))
    both(mouse_release_callbacks, event("mouse_release", stop))


def test_a_drawn_region_replaces_and_gives_the_mouse_back(panel, wait_until):
    run_all(panel, wait_until)
    step, viewer = panel.strain_step, panel.viewer
    step.reference.setCurrentText("drawn region")
    first = panel.state.settings.reference.copy()
    region = step.region_layer()
    press(viewer, (4, 6))  # outside the region, which is still chosen
    assert panel.state.settings.position == (4, 6)
    step.draw_button.click()
    assert region.mode == "add_rectangle"
    press(viewer, (1.0, 3.0), (3.0, 6.0))
    wait_until(lambda: region.mode == "pan_zoom", 10, "the drawing to end")
    assert len(region.data) == 1 and not region.selected_data
    second = panel.state.settings.reference
    assert second[2, 4] and not second[:, :2].any() and not np.array_equal(first, second)
    press(viewer, (0, 7))
    assert panel.state.settings.position == (0, 7)


def test_g1_is_dragged_after_run_all_whatever_layer_is_chosen_and_undone(panel, wait_until):
    run_all(panel, wait_until)
    state, canvas, history = panel.state, panel.canvas, panel.thresholds.history
    wait_until(lambda: state.found.lattice is not None and not state.busy)
    panel.virtual.add_bright_field()  # its layer is chosen, and in the mode "select"
    canvas.view.setCurrentText("Vector map")
    g, centre = np.array(state.found.lattice.basis.g), np.asarray(state.found.lattice.centre_px)
    strain = state.found.strain
    history.settle()
    press(canvas.model, centre + g[0], centre + g[0] + g[1])
    np.testing.assert_allclose(state.settings.strain_params.g1, g[0] + g[1], atol=0.5)
    np.testing.assert_allclose(panel.lattice_step.form.editors["g1"].get(), g[0] + g[1], atol=0.5)
    assert canvas.model.layers.selection.active.mode == "select"
    wait_until(lambda: state.found.lattice.basis.source == "given" and state.found.strain is not strain)
    history.settle()
    panel.histogram.step(1)
    history.settle()
    limits = state.limits
    panel.thresholds.undo_button.click()
    assert state.limits != limits and state.settings.strain_params.g1 is not None
    panel.thresholds.undo_button.click()
    assert state.settings.strain_params.g1 is None and panel.lattice_step.form.editors["g1"].get() is None
    wait_until(lambda: state.found.lattice.basis.source == "found")


def test_a_fit_to_the_patterns_is_offered_with_its_time_and_can_be_stopped(make_napari_viewer, small_sample, wait_until):
    whole = small_sample[0]
    panel = show(make_napari_viewer(show=True), in_memory(np.asarray(whole.data)[:2, 3:8], "datacube", whole.calibration))
    wait_until(lambda: panel.state.found.live is not None)
    run_all(panel, wait_until)
    step, state = panel.strain_step, panel.state
    peaks = state.found.strain
    assert step.fit_time.isHidden()
    step.form.editors["fit"].put("pattern")
    assert "press Fit strain" in step.line.text() and state.found.strain is peaks, "nothing long starts by itself"
    wait_until(lambda: step.fit_time.isVisible(), what="the expected time")
    assert "takes about" in step.fit_time.text()
    step.fit_button.click()
    assert state.busy and step.bar.isVisible()
    panel.histogram.step(1)
    assert state.fit_job is not None, "a slider does not begin it anew"
    step.bar.cancel_button.click()
    wait_until(lambda: state.fit_job is None and not state.busy)
    assert state.found.strain is peaks and not step.bar.isVisible()
    step.fit_button.click()
    wait_until(lambda: state.found.strain is not peaks, what="the fit to the patterns")
    fitted = state.found.strain
    assert fitted.attrs["params"]["fit"] == "pattern" and step.line.text().endswith("of the scan")
    step.form.editors["fit"].put("peaks")
    wait_until(lambda: state.found.strain is not fitted)
    assert state.found.strain.attrs["params"]["fit"] == "peaks" and step.fit_time.isHidden()


def test_a_region_is_undone_with_its_shape(panel, wait_until):
    run_all(panel, wait_until)
    step, history, state = panel.strain_step, panel.thresholds.history, panel.state
    history.settle()
    step.reference.setCurrentText("drawn region")
    history.settle()
    first, corners = state.settings.reference.copy(), step.region_shapes()
    layer = step.region_layer()
    layer.data = [layer.data[0] + np.array([0.0, 3.0])]
    history.settle()
    assert not np.array_equal(state.settings.reference, first)
    history.undo()
    np.testing.assert_array_equal(state.settings.reference, first)
    assert step.region_shapes() == corners
    history.undo()
    assert state.settings.reference is None and step.reference.currentText() == "median of the scan"


def test_the_tour_goes_from_the_sample_to_a_figure_and_ends(panel, wait_until, tmp_path):
    tour = panel.frame.tour
    assert not tour.isVisible()
    panel.begin_tour()
    assert tour.isVisible() and "1 of 3" in tour.text.text()
    assert "border" in panel.open_button.styleSheet()
    tour.next_button.click()
    assert "2 of 3" in tour.text.text() and "border" not in panel.open_button.styleSheet()
    tour.do_button.click()
    wait_until(lambda: panel.state.found.strain is not None)
    tour.next_button.click()
    tour.do_button.click()
    dialog = panel.export_step.figure_dialog
    dialog.components["exx"].setChecked(False)
    dialog.width_mm.setValue(85)
    wait_until(lambda: not dialog.preview.pixmap().isNull(), what="a preview")
    dialog.save(tmp_path / "figure.svg")
    wait_until(lambda: "saved" in dialog.note.text())
    assert "<text" in (tmp_path / "figure.svg").read_text(encoding="utf-8")
    dialog.copy()
    wait_until(lambda: "copied" in dialog.note.text())
    tour.next_button.click()
    assert not tour.isVisible()


def test_four_maps_share_cross_hair_and_scale(panel, wait_until):
    run_all(panel, wait_until)
    corner, layer = panel.viewer.text_overlay, panel.maps.layer("exx")
    layer.contrast_limits = (-1e-3, 1e-3)  # nearly all lies beyond: the corner says so
    assert "ε xx ▼" in corner.text and "beyond" in corner.text
    session.fit_view(panel.viewer)
    camera = session.camera_of(panel.viewer)
    whole = camera.zoom
    panel.viewer.canvas.size = (150, 400)  # a low canvas: the lines that matter, and the map stays whole
    assert camera.zoom < whole
    assert len(corner.text.splitlines()) == 3 and "ε xx +" in corner.text.replace("-", "+") and "beyond" in corner.text
    camera.zoom = 3 * whole
    panel.viewer.canvas.size = (600, 400)
    assert camera.zoom == 3 * whole, "whoever zooms keeps the zoom"
    assert len(corner.text.splitlines()) > 5
    layer.contrast_limits = (-0.5, 0.5)
    dialog = panel.export_step.open_figure()
    assert dialog.limit_pct.value() == 0.5, "the figure has the scale that was set"
    panel.export_step.close_figure()
    layer.contrast_limits = (-1e-3, 1e-3)
    panel.strain_step.all_four.setChecked(True)
    wait_until(lambda: panel.four_maps.isVisible() and panel.four_maps.maps["exx"].image.image is not None)
    maps, strain = panel.four_maps.maps, panel.state.found.strain
    assert maps["exx"].limits == maps["eyy"].limits == (-1e-3, 1e-3), "one colour scale, whichever shows it"
    panel.maps.layer("exx").contrast_limits = (-2e-3, 2e-3)
    assert (
        maps["exy"].limits == (-2e-3, 2e-3) and corner.text.splitlines()[-1].split("▼")[1] in maps["exx"].plot.titleLabel.text
    )
    panel.maps.scales.rescale()
    panel.maps.finish()
    assert panel.maps.layer("axes").visible and "on the detector" not in corner.text
    np.testing.assert_allclose(maps["eyy"].image.image, 100 * strain.eyy)
    np.testing.assert_allclose(maps["theta_rad"].image.image, np.degrees(strain.theta_rad))
    assert maps["exx"].limits == maps["exy"].limits == maps["eyy"].limits != maps["theta_rad"].limits
    assert len(maps["exx"].axes) == 4  # two arrows with their names
    panel.four_maps.moved.emit(1, 2)
    assert panel.state.settings.position == panel.cross.position == (1, 2)
    row, col = maps["theta_rad"].cross.getData()[1][0], maps["theta_rad"].cross.getData()[0][2]
    assert (row, col) == (1, 2)
    layer.contrast_limits = (-1e-3, 1e-3)
    panel.maps.image("virtual 1", "Bright field", np.zeros(strain.shape, np.float32))  # it covers the map
    panel.maps.finish()
    assert not layer.colorbar.visible and not panel.maps.layer("axes").visible and "beyond" not in corner.text
    panel.strain_step.show_map.textActivated.emit("ε xx")
    panel.maps.finish()
    assert layer.colorbar.visible and panel.maps.layer("axes").visible and "beyond" in corner.text
    assert not panel.maps.layer("virtual 1").visible
    panel.start(panel.state.cube)  # as a project begins it anew: the layers are there already
    assert panel.maps.scales.limits("exy") == (-1e-3, 1e-3)


def test_the_strain_axes_are_arrows_that_turn_with_the_axis(panel, wait_until):
    """In the lower left corner of the map, inside it, and shown with the strain maps alone."""
    state = panel.state
    panel.run_all_button.click()
    wait_until(lambda: state.found.strain is not None and not state.busy and panel.maps.layer("axes") is not None)
    layer, (rows, cols) = panel.maps.layer("axes"), panel.state.cube.scan_shape

    def directions() -> np.ndarray:
        arrows = np.array([path[1] - path[0] for path in layer.data[:2]])
        return arrows / np.linalg.norm(arrows, axis=1, keepdims=True)

    np.testing.assert_allclose(directions(), [[1, 0], [0, 1]], atol=1e-6)
    before = state.found.strain
    panel.strain_step.turn_axis(30.0)
    wait_until(lambda: state.found.strain is not before and not state.busy)
    panel.maps.finish()
    turned = np.deg2rad(30)
    np.testing.assert_allclose(directions(), [[np.cos(turned), np.sin(turned)], [-np.sin(turned), np.cos(turned)]], atol=1e-6)
    places = np.concatenate(layer.data)
    assert (places >= -0.5).all() and (places <= (rows - 0.5, cols - 0.5)).all()
    assert layer.visible
    panel.maps.layer(panel.maps.chosen).visible = False
    panel.maps.finish()
    assert not layer.visible


def test_nothing_is_cut_off_in_a_larger_type(panel, qtbot):
    """Tool buttons take the size of type too, and what is wider than the panel can be scrolled to."""
    from napari.settings import get_settings

    get_settings().appearance.font_size = 14
    qtbot.wait(300)
    assert panel.frame.help_button.font().pointSize() == 14
    area = panel.frame.scroll_area
    hidden = area.widget().width() - area.viewport().width()
    assert hidden <= 0 or area.horizontalScrollBar().maximum() >= hidden


def test_run_all_shows_the_peaks_at_once_then_takes_the_patterns_and_a_slider_follows_with_peaks(
    make_napari_viewer, small_sample, wait_until
):
    whole = small_sample[0]
    panel = show(make_napari_viewer(show=True), in_memory(np.asarray(whole.data)[:2, 3:8], "datacube", whole.calibration))
    wait_until(lambda: panel.state.found.live is not None)
    step, state = panel.strain_step, panel.state
    maps, said = [], []
    state.strain_changed.connect(lambda: maps.append(state.found.strain.attrs["fit"]["wanted"]))
    state.message.connect(said.append)
    run_all(panel, wait_until)
    assert maps == ["peaks", "auto"], "the numbers change once, by the fit that was announced"
    text = state.found.strain.attrs["fit"]["text"]
    assert any(f"the strain is {text}" in line for line in said) and text in step.evidence.text().lower()
    assert step.fit_time.isHidden()
    panel.histogram.step(1)
    wait_until(lambda: len(maps) == 3 and not state.busy, what="the map of the peaks")
    assert maps[-1] == "peaks" and state.fit_job is None
    assert step.fit_time.isVisible() and "Fit strain takes the patterns too" in step.fit_time.text()
    wait_until(lambda: "about" in step.fit_time.text(), what="how long it takes")
    step.fit_button.click()
    wait_until(lambda: maps[-1] == "auto" and not state.busy, what="peaks and patterns")
    assert step.fit_time.isHidden()


def test_a_movie_beside_a_datacube_has_the_room_of_the_window(panel, wait_until):
    """Its panels are tabs on the workspace, and the diffraction canvas gives way until the workspace is in front again."""
    frames = np.random.default_rng(1).poisson(9, (3, 64, 64)).astype(np.uint8)
    add(panel.viewer, in_memory(frames, "movie", name="movie"))
    columns = session.open_panel(panel.viewer, session.COLUMNS)
    wait_until(lambda: not columns.visibleRegion().isEmpty() and panel.visibleRegion().isEmpty(), what="the columns in front")
    window = panel.viewer.window._qt_window
    assert session.dock_of(columns) in window.tabifiedDockWidgets(session.dock_of(panel))
    wait_until(lambda: not panel.canvas.isVisible(), what="the canvas to give way")
    diffusion = session.open_panel(panel.viewer, session.DIFFUSION)
    diffusion.behind = True
    wait_until(lambda: session.dock_of(diffusion) in window.tabifiedDockWidgets(session.dock_of(panel)), what="a third tab")
    assert not columns.visibleRegion().isEmpty(), "what opens behind leaves the tab in front where it is"
    session.bring_forward(panel.viewer, session.WORKSPACE)
    wait_until(lambda: panel.canvas.isVisible() and not panel.visibleRegion().isEmpty(), what="the workspace in front")
    movie = session.signal_of(panel.viewer.layers["movie"])
    shown = visible(panel.viewer, panel.state.cube)
    assert shown and visible(panel.viewer, movie) == [], "the movie lies over no map"
    notices.tell(panel.viewer, "this cannot be opened")
    assert panel.notices.lines and not columns.notices.lines, "advice stands where one looks"
    session.bring_forward(panel.viewer, session.COLUMNS)
    wait_until(lambda: visible(panel.viewer, movie) == ["movie"] and not visible(panel.viewer, panel.state.cube))
    panel.sets.switch(panel.sets.shown)
    assert visible(panel.viewer, panel.state.cube) == shown and visible(panel.viewer, movie) == []


def test_the_axes_are_drawn_anew_only_when_they_turn(panel, wait_until):
    run_all(panel, wait_until)
    drawn = []
    panel.maps.layer("axes").events.data.connect(drawn.append)
    before = panel.state.found.strain
    panel.state.set_threshold(panel.state.settings.min_score * 1.2)
    wait_until(lambda: panel.state.found.strain is not before and not panel.state.busy and panel.maps.settled)
    assert not drawn, "a threshold does not turn them"
    panel.strain_step.turn_axis(30.0)
    wait_until(lambda: drawn, what="the axes that turned")


def test_the_pixel_size_of_a_movie_leaves_the_maps_of_a_scan_alone(make_napari_viewer, small_sample, wait_until):
    """Also where neither has one: both have a scale of 1 then."""
    cube = in_memory(np.asarray(small_sample[0].data), "datacube", name="bare cube")
    panel = show(make_napari_viewer(show=True), cube)
    viewer, columns = panel.viewer, session.open_panel(panel.viewer, session.COLUMNS)
    frames = np.random.default_rng(1).poisson(9, (3, 64, 64)).astype(np.uint8)
    movie = in_memory(frames, "movie", name="bare movie")
    add(viewer, movie)
    wait_until(lambda: columns.session.movie is not None)
    columns.session.set_pixel_A(0.2, "user")
    scales = {tag_of(la).get("signal").name: tuple(la.scale[-2:]) for la in viewer.layers if tag_of(la).get("signal")}
    assert scales["bare movie"] == pytest.approx((0.02, 0.02)) and scales["bare cube"] == (1.0, 1.0)
