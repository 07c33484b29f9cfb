"""The 4D-STEM workspace as the projects of its viewer see it; saving, opening and keeping are the kit's, as for HRTEM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from napari_emdl.gui.diffraction.panel import Panel
from napari_emdl.gui.diffraction.project import Opened, collect, opened_layers, read_opened, same_cube
from napari_emdl.gui.kit.projects import Keeper, ProjectMenu
from napari_emdl.workflow.project import Collected


class StemProjects:
    """For :class:`napari_emdl.gui.kit.projects.Keeper`; every datacube has a project file of its own."""

    science = "diffraction"

    def __init__(self, panel: Panel):
        self.panel = panel

    @property
    def named(self) -> Any:
        """Settings of the datacube that is shown, which hold its project file."""
        return self.panel.state.settings

    def collect(self, copy_results: bool = True) -> Collected:
        """See :func:`napari_emdl.gui.diffraction.project.collect`."""
        return collect(self.panel, copy_results)

    def read(self, path: Path) -> Opened:
        """See :func:`napari_emdl.gui.diffraction.project.read_opened`."""
        return read_opened(path)

    def take(self, opened: Opened) -> None:
        """Be as the project says; its datacube is opened unless it is the one that is shown."""
        panel = self.panel
        if panel.closed:
            return
        shown_first = sorted(panel.sets.all, key=lambda one: one is not panel.sets.shown)
        known = next((one for one in shown_first if same_cube(one.cube, opened.cube)), None)
        if known is not None:
            panel.open(known.cube)
            panel.take_project(opened)
        else:
            for data in opened_layers(opened):
                panel.viewer._add_layer_from_data(*data)

    def suggested(self) -> Path | None:
        """File of the datacube."""
        cube = self.panel.state.cube
        return Path(cube.path.split("::")[0]) if cube is not None and cube.path else None

    def say(self, line: str) -> None:
        """One line in the status of the panel."""
        self.panel.state.message.emit(line)

    def warn(self, line: str) -> None:
        """One line that stays."""
        if not self.panel.closed:
            self.panel.notices.tell(line)


def project_menu(panel: Panel, keeper: Keeper) -> ProjectMenu:
    """Menu of the panel."""
    tip = "Parameters as they come; what belongs to the open file stays"
    return ProjectMenu(keeper, (("Default parameters", tip, panel.use_defaults),), panel)
