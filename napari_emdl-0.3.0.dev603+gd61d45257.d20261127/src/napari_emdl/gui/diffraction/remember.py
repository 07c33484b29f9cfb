"""Parameters of the 4D-STEM workspace that the next start begins with: how to work, not what belongs to one file."""

from __future__ import annotations

from typing import Any

from napari_emdl.base.errors import EmdlError
from napari_emdl.base.params import CalibrateParams, DiskParams, RunParams, StrainParams
from napari_emdl.gui.diffraction.data import Settings
from napari_emdl.gui.diffraction.state import StemState
from napari_emdl.gui.kit import session
from napari_emdl.gui.kit.worker import report_error
from napari_emdl.workflow.settings import Remembered

NAME = "4d-stem"
#: Fields that are remembered; probe, g1 and g2, reference, pixel sizes and thresholds belong to a file.
DISKS = ("method", "model", "min_spacing_px", "edge_px", "max_disks", "refine_passes", "template")
RUN = ("device", "batch", "max_memory", "workers", "scheduler")
STRAIN = ("axis_deg", "min_disks", "max_index_error")
CALIBRATE = ("origin_model", "ellipticity", "distortion")


SECTIONS = Remembered(NAME, {"disks": DISKS, "run": RUN, "strain": STRAIN, "calibrate": CALIBRATE})


def begin(state: StemState) -> None:
    """Settings of a new workspace: those of the last one, then what was chosen in the preferences."""
    plain = {"disks": DiskParams(), "run": RunParams(), "strain": StrainParams(), "calibrate": CalibrateParams()}
    known, rest = SECTIONS.begin(plain)
    settings = state.settings
    settings.disk_params = known["disks"]
    settings.strain_params = known["strain"].model_copy(update={"calibrate": known["calibrate"]})
    settings.run_params = preferred_run(known["run"])
    preferred = bool(session.setting("live", "enabled", True))
    state.live_enabled = preferred and bool(rest.get("live", True))


def keep(state: StemState) -> None:
    """Remember the settings of `state` for the next start."""
    SECTIONS.keep(_sections(state.settings), live=state.live_enabled)


def defaults(state: StemState) -> tuple[DiskParams, StrainParams, RunParams]:
    """Parameters as they come, with what belongs to the open file as it is."""
    plain = SECTIONS.defaults(_sections(state.settings))
    strain = plain["strain"].model_copy(update={"calibrate": plain["calibrate"]})
    return DiskParams(probe=state.settings.disk_params.probe), strain, preferred_run(RunParams())


def _sections(settings: Settings) -> dict[str, Any]:
    strain = settings.strain_params
    return {"disks": settings.disk_params, "run": settings.run_params, "strain": strain, "calibrate": strain.calibrate}


def carried(settings: Settings) -> Settings:
    """Settings of another datacube, to begin the next with: how to work, not what belongs to the file."""
    disks = DiskParams(**{name: getattr(settings.disk_params, name) for name in DISKS})
    calibrate = CalibrateParams(**{name: getattr(settings.strain_params.calibrate, name) for name in CALIBRATE})
    strain = StrainParams(**{name: getattr(settings.strain_params, name) for name in STRAIN}, calibrate=calibrate)
    return Settings(disk_params=disks, strain_params=strain, run_params=settings.run_params)


def preferred_run(run: RunParams) -> RunParams:
    """`run` with device and memory of the preferences, where they were changed there; what is not a size there is not used."""
    wanted = {name: session.setting("run", name, RunParams.model_fields[name].default) for name in ("device", "max_memory")}
    chosen = {name: value for name, value in wanted.items() if value != RunParams.model_fields[name].default}
    try:
        return RunParams.model_validate({**run.model_dump(), **chosen})
    except ValueError as error:
        report_error(EmdlError(f"preferences of napari-emdl: {str(error).splitlines()[2].strip()}"))
        return run
