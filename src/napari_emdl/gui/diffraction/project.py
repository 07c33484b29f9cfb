"""A 4D-STEM workspace as a project file and back: settings, disks, own layers, detectors, and what the window showed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from napari_emdl.base.errors import EmdlError, OpenError
from napari_emdl.base.signals import Datacube
from napari_emdl.gui.diffraction.canvas import VIEWS
from napari_emdl.gui.diffraction.data import Settings
from napari_emdl.gui.diffraction.jobs import run_file
from napari_emdl.gui.diffraction.panel import Panel
from napari_emdl.gui.diffraction.strain import DRAWN, IDEAL, MAP_TITLES, MEDIAN
from napari_emdl.gui.kit import styles
from napari_emdl.gui.kit.layerfile import read_layers, write_layers
from napari_emdl.gui.kit.ownlayers import MAX_IMAGE_BYTES, MAX_IMAGE_BYTES_KEPT, LayerData, digest_of, own, own_layers
from napari_emdl.gui.kit.session import role_of, tag, tag_of
from napari_emdl.gui.kit.signals import with_project
from napari_emdl.workflow.project import Collected, DiffractionProject, Project, open_cube, read_project

DISKS, DONE, REGIONS = "disks.h5", "done.npy", "regions.npy"
SCAN_LAYERS, DIFFRACTION_LAYERS = "scan.emdl.h5", "diffraction.emdl.h5"
#: Drawings of ours on the scan that are kept with the user's own layers; everything else of ours is made anew.
_DRAWN, _ON_CANVAS = ("reference", "profile"), ("detector",)
_LOOK = ("visible", "opacity", "gamma", "contrast_limits")


@dataclass
class Opened:
    """What a project file held."""

    path: Path
    project: DiffractionProject
    cube: Datacube
    parts: dict[str, Any]


def collect(panel: Panel, copy_disks: bool = True) -> Collected:
    """Everything that is set in `panel`.

    Parameters
    ----------
    copy_disks
        Copy the disks into the project. False (autosave) names the file they lie in; those of a run that was stopped are in its
        journal, from which Resume goes on.

    Raises
    ------
    EmdlError
        When there is no datacube, or one that could not be opened again.
    """
    state = panel.state
    cube, reference = state.cube, state.settings.reference
    if cube is None:
        raise EmdlError("open a datacube before saving a project")
    sample = dict(cube.metadata.get("sample") or {})
    if not (cube.path or sample):
        raise EmdlError("this datacube is not a file; save it first, a project names the file of its datacube")
    parts: dict[str, Callable[[Path], Any]] = {}
    disks_file = None if copy_disks else state.found.disks_file
    if state.found.disks is not None and copy_disks:
        parts |= _disk_parts(state.found.disks, state.found.done)
    if state.settings.regions is not None:
        regions = state.settings.regions.copy()
        parts[REGIONS] = lambda path: np.save(path, regions)
    largest = MAX_IMAGE_BYTES if copy_disks else MAX_IMAGE_BYTES_KEPT
    scan, left_out = own_layers(panel.viewer.layers, None, largest, _DRAWN)
    diffraction, more = own_layers(panel.canvas.model.layers, None, largest, _ON_CANVAS)
    for name, layers in ((SCAN_LAYERS, scan), (DIFFRACTION_LAYERS, diffraction)):
        if layers:
            parts[name] = _layer_writer(layers)
    output = state.settings.output
    named_output = output if output != run_file(cube, state.output_folder) else None
    project = DiffractionProject(
        datacube=cube.path,
        open_options=dict(cube.metadata.get("open_options") or {}),
        sample=sample,
        scan_shape=cube.scan_shape,
        detector_shape=cube.detector_shape,
        position=state.settings.position,
        disks=state.settings.disk_params,
        strain=state.settings.strain_params,
        run=state.settings.run_params.model_copy(update={"resume": None}),
        min_score=state.settings.min_score,
        default_min_score=state.settings.default_min_score,
        reference="median" if reference is None else "lattice" if isinstance(reference, str) else "region",
        live=state.live_enabled,
        output=None if named_output is None else str(named_output),
        disks_file=None if disks_file is None else str(disks_file),
        fitted=state.found.strain is not None,
        peaks_for_now=state.peaks_for_now,
        display=_display(panel),
    )
    drawn = f"{digest_of(panel.viewer.layers, _DRAWN)}{digest_of(panel.canvas.model.layers, _ON_CANVAS)}"
    return Collected(Project(diffraction=project), parts, [*left_out, *more], f"{id(state.found.disks)}{drawn}")


def _disk_parts(disks: Any, done: Any) -> dict[str, Callable[[Path], Any]]:
    from napari_emdl.io import save

    parts: dict[str, Callable[[Path], Any]] = {DISKS: lambda path: save(disks, path)}
    if done is not None and not done.all():
        finished = done.copy()
        parts[DONE] = lambda path: np.save(path, finished)
    return parts


def _layer_writer(layers: list[LayerData]) -> Callable[[Path], Any]:
    return lambda path: write_layers(str(path), layers)


def layers_to_export(panel: Panel) -> tuple[list[LayerData], dict[str, Any]]:
    """The user's own layers, drawings and virtual images on the scan; and what was set, for the record."""
    cube = panel.state.cube
    images = [la for la in panel.viewer.layers if tag_of(la).get("signal") is cube and role_of(la).startswith(("nav", "virt"))]
    layers, left_out = own_layers(panel.viewer.layers, drawn=_DRAWN)
    for layer in images:
        data, attributes, kind = layer.as_layer_data_tuple()
        name = "navigation" if role_of(layer) == "navigation" else layer.name
        layers.append((np.array(data), {**attributes, "name": name}, kind))  # it may still fill in
    try:
        project = collect(panel).project.diffraction
        settings = project.model_dump(mode="json", exclude={"display"}, exclude_none=True) if project is not None else {}
    except EmdlError:  # a datacube in memory
        settings = {}
    return layers, {"settings": settings, "left_out": left_out}


def look_of(layer: Any) -> dict[str, Any]:
    """Visibility, opacity, contrast and colours of a layer, as plain values."""
    found = {name: getattr(layer, name) for name in _LOOK if hasattr(layer, name)}
    if "contrast_limits" in found:
        found["contrast_limits"] = [float(v) for v in found["contrast_limits"]]
        found["colormap"] = str(layer.colormap.name)
    return found


def _display(panel: Panel) -> dict[str, Any]:
    canvas, cube = panel.canvas, panel.state.cube
    ours = [la for la in panel.viewer.layers if tag_of(la).get("signal") is cube and role_of(la) not in _DRAWN]
    detectors = [la for la in canvas.model.layers if role_of(la) == "detector"]
    return {
        "map": panel.strain_step.show_map.currentText(),
        "canvas": {
            "view": canvas.view.currentText(),
            **{name: getattr(canvas, name).isChecked() for name in ("log", "auto", "rings", "structure")},
            "pattern": look_of(canvas.layer("pattern")) if canvas.layer("pattern") is not None else {},
        },
        "detectors": [tag_of(layer)["key"] for layer in detectors],
        "follow_beam": panel.virtual.follow.isChecked(),
        "looks": {role_of(layer): look_of(layer) for layer in ours},
        "steps": [step.arrow.isChecked() for step in panel.steps],
        "profile_width": panel.strain_step.profile.width_box.value(),
    }


# opening


def read_opened(path: str | Path) -> Opened:
    """Read a project file and open its datacube; no Qt in here.

    Raises
    ------
    EmdlError
        In one line, when the file is damaged, or its datacube is missing or another one.
    """
    from napari_emdl.io import load

    readers = {DISKS: load, DONE: np.load, REGIONS: np.load, SCAN_LAYERS: read_layers, DIFFRACTION_LAYERS: read_layers}
    from napari_emdl.samples.diffraction import strained_datacube

    whole, parts = read_project(path, readers)
    project = whole.diffraction
    if project is None:
        raise OpenError(f"{Path(path).name} holds no datacube")
    cube = open_cube(project, path, lambda **how: strained_datacube(**how)[0])
    if project.disks_file and DISKS not in parts and Path(project.disks_file).exists():
        parts[DISKS] = load(project.disks_file)
    return Opened(Path(path), project, cube, parts)


def opened_layers(opened: Opened) -> list[LayerData]:
    """Layers that bring an opened project to a workspace."""
    return with_project(opened.cube, opened)


def restore(panel: Panel, opened: Opened) -> Iterator[None]:
    """Make `panel` as it was when the project was saved, in slices; its datacube becomes the project's."""
    project, state = opened.project, panel.state
    if state.cube is not None and same_cube(state.cube, opened.cube):
        opened.cube = state.cube  # opened already: its layers stay, everything else begins anew
        panel.close_detectors()
    params = project.disks.model_copy(update={"min_score": None})
    panel.start(opened.cube, Settings(disk_params=params, strain_params=project.strain, run_params=project.run))
    _put_settings(panel, project)
    assert panel.cross is not None and panel.maps is not None
    maps = panel.maps
    maps.looks = dict(project.display.get("looks") or {})
    panel.cross.move_to(*project.position)
    yield
    for role in list(maps.looks):
        maps.dress(role)
        yield
    _put_canvas(panel, project.display.get("canvas") or {})
    yield
    for saved in opened.parts.get(SCAN_LAYERS, []):
        yield from _add_scan_layer(panel, *saved)
        yield
    panel.virtual.follow.setChecked(bool(project.display.get("follow_beam", True)))
    _add_diffraction_layers(panel, opened.parts.get(DIFFRACTION_LAYERS, []), project.display.get("detectors") or [])
    if REGIONS in opened.parts:
        panel.regions.use_checked(opened.parts[REGIONS])
    yield
    disks = opened.parts.get(DISKS)
    if disks is not None:
        state.take_disks(disks, opened.parts.get(DONE), Path(project.disks_file) if project.disks_file else None)
    elif project.disks_file:
        state.message.emit(f"the disks were in {project.disks_file}, which is gone: run them again")
    if disks is not None and project.fitted:
        (state.follow if project.peaks_for_now else state.fit)()  # the map as it was


def same_cube(a: Datacube, b: Datacube) -> bool:
    """True for the same file, or the same sample, opened in the same way."""
    return a.shape == b.shape and a.path == b.path and a.metadata.get("sample") == b.metadata.get("sample")


def _put_settings(panel: Panel, project: DiffractionProject) -> None:
    """Settings into state and forms; nothing is told, the datacube was opened with them."""
    state = panel.state
    state.settings.min_score, state.settings.default_min_score = project.min_score, project.default_min_score
    panel.probe_step.put(project.disks.probe)
    panel.disks_step.put(project.disks, project.run)
    panel.disks_step.live.setChecked(project.live)
    panel.put_strain(project.strain)
    if project.output:
        state.settings.output = Path(project.output)
    reference = panel.strain_step.reference
    reference.blockSignals(True)
    reference.setCurrentText({"median": MEDIAN, "region": DRAWN, "lattice": IDEAL}[project.reference])
    reference.blockSignals(False)
    state.settings.reference = "lattice" if project.reference == "lattice" else None
    shown = panel.strain_step.show_map
    shown.blockSignals(True)
    shown.setCurrentText(str(project.display.get("map", shown.currentText())))
    shown.blockSignals(False)
    if panel.maps is not None and project.fitted:
        panel.maps.chosen = MAP_TITLES.get(shown.currentText(), "")
    panel.strain_step.profile.width_box.setValue(int(project.display.get("profile_width", 1)))
    for step, unfolded in zip(panel.steps, project.display.get("steps") or (), strict=False):
        step.unfold(bool(unfolded))
    panel.disks_step.refresh()
    panel.strain_step.refresh()


def _put_canvas(panel: Panel, shown: dict[str, Any]) -> None:
    canvas = panel.canvas
    for name in ("log", "auto", "rings", "structure"):
        if name in shown:
            getattr(canvas, name).setChecked(bool(shown[name]))
    if shown.get("view") in VIEWS:
        canvas.view.setCurrentText(shown["view"])
    if not canvas.auto.isChecked() and canvas.layer("pattern") is not None:
        styles.apply_look(canvas.layer("pattern"), shown.get("pattern") or {})


def _add_scan_layer(panel: Panel, data: Any, attributes: dict[str, Any], kind: str) -> Iterator[None]:
    role = _take_role(attributes)
    if role not in _DRAWN:
        _add_own(panel.viewer, data, attributes, kind)
        return
    old = panel.maps.layer(role) if panel.maps is not None else None
    if old is not None:
        tag_of(old)["role"] = "replaced"  # its going is not the user's
        panel.viewer.layers.remove(old)
        yield
    layer = _add(panel.viewer, data, {**attributes, "metadata": tag(role, panel.state.cube)}, kind)
    (panel.strain_step.watch_region if role == "reference" else panel.strain_step.profile.watch)(layer)


def _add_diffraction_layers(panel: Panel, saved: list[LayerData], keys: list[str]) -> None:
    left = list(keys)
    for data, attributes, kind in saved:
        if _take_role(attributes) == "detector" and panel.detectors is not None and left:
            panel.detectors.add_saved(data, attributes, str(left.pop(0)))
        else:
            _add_own(panel.canvas.model, data, attributes, kind)


def _take_role(attributes: dict[str, Any]) -> str:
    """Role a layer had when it was saved; what it is now is for the caller to say."""
    found = attributes.pop("metadata", {}).get(styles.METADATA_KEY, {})
    return str(found.get("role", "")).removeprefix("saved ")


def _add(viewer: Any, data: Any, attributes: dict[str, Any], kind: str) -> Any:
    from napari.layers import Layer

    layer = Layer.create(data, attributes, kind)
    viewer.layers.append(layer)
    return layer


def _add_own(viewer: Any, data: Any, attributes: dict[str, Any], kind: str) -> None:
    """Add a layer of the user's own unless it is there already."""
    for layer in viewer.layers:
        if layer.name == attributes.get("name") and layer._type_string == kind and own(layer) and _equal(layer.data, data):
            return
    _add(viewer, data, attributes, kind)


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, list) or isinstance(b, list):
        return len(a) == len(b) and all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
    return bool(np.array_equal(a, b))
