"""Parameters of the 4D-STEM workspace that the next start begins with: how to work, not what belongs to one file."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from napari_emdl.base.errors import EmdlError
from napari_emdl.base.params import CalibrateParams, DiskParams, RunParams, StrainParams
from napari_emdl.gui.diffraction.data import Settings
from napari_emdl.gui.diffraction.state import StemState
from napari_emdl.gui.kit import session
from napari_emdl.gui.kit.remembered import recall, remember
from napari_emdl.gui.kit.worker import report_error

NAME = "4d-stem"
#: Fields that are remembered; probe, g1 and g2, reference, pixel sizes and thresholds belong to a file.
DISKS = ("method", "model", "min_spacing_px", "edge_px", "max_disks", "refine_passes", "template")
RUN = ("device", "batch", "max_memory", "workers", "scheduler")
STRAIN = ("axis_deg", "min_disks", "max_index_error")
CALIBRATE = ("origin_model", "ellipticity")


def begin(state: StemState) -> None:
    """Settings of a new workspace: those of the last one, then what was chosen in the preferences."""
    known = recall(NAME)
    state.settings.disk_params = _taken(DiskParams(), known.get("disks"), DISKS)
    strain = _taken(StrainParams(), known.get("strain"), STRAIN)
    calibrate = _taken(CalibrateParams(), known.get("calibrate"), CALIBRATE)
    state.settings.strain_params = strain.model_copy(update={"calibrate": calibrate})
    state.settings.run_params = preferred_run(_taken(RunParams(), known.get("run"), RUN))
    preferred = bool(session.setting("live", "enabled", True))
    state.live_enabled = preferred and bool(known.get("live", True))


def keep(state: StemState) -> None:
    """Remember the settings of `state` for the next start."""
    strain = state.settings.strain_params
    remember(
        NAME,
        {
            "disks": _given(state.settings.disk_params, DISKS),
            "run": _given(state.settings.run_params, RUN),
            "strain": _given(strain, STRAIN),
            "calibrate": _given(strain.calibrate, CALIBRATE),
            "live": state.live_enabled,
        },
    )


def defaults(state: StemState) -> tuple[DiskParams, StrainParams, RunParams]:
    """Parameters as they come, with what belongs to the open file as it is."""
    disks = DiskParams(probe=state.settings.disk_params.probe)
    kept = {name: getattr(state.settings.strain_params, name) for name in StrainParams.model_fields if name not in STRAIN}
    plain = {name: CalibrateParams.model_fields[name].default for name in CALIBRATE}
    kept["calibrate"] = state.settings.strain_params.calibrate.model_copy(update=plain)
    return disks, StrainParams(**kept), preferred_run(RunParams())


def carried(settings: Settings) -> Settings:
    """Settings of another datacube, to begin the next with: how to work, not what belongs to the file."""
    disks = DiskParams(**{name: getattr(settings.disk_params, name) for name in DISKS})
    calibrate = CalibrateParams(**{name: getattr(settings.strain_params.calibrate, name) for name in CALIBRATE})
    strain = StrainParams(**{name: getattr(settings.strain_params, name) for name in STRAIN}, calibrate=calibrate)
    return Settings(disk_params=disks, strain_params=strain, run_params=settings.run_params)


def preferred_run(run: RunParams) -> RunParams:
    """`run` with device and memory of the preferences, where they were changed there; what is no size there is not used."""
    wanted = {name: session.setting("run", name, RunParams.model_fields[name].default) for name in ("device", "max_memory")}
    chosen = {name: value for name, value in wanted.items() if value != RunParams.model_fields[name].default}
    try:
        return RunParams.model_validate({**run.model_dump(), **chosen})
    except ValueError as error:
        report_error(EmdlError(f"preferences of napari-emdl: {str(error).splitlines()[2].strip()}"))
        return run


def _given(params: BaseModel, names: tuple[str, ...]) -> dict[str, Any]:
    return params.model_dump(mode="json", include=set(names), exclude_none=True)


def _taken(params: Any, known: Any, names: tuple[str, ...]) -> Any:
    """`params` with what is known of `names`; all of it or nothing."""
    if not isinstance(known, dict):
        return params
    try:
        return type(params).model_validate({**dict(params), **{name: known[name] for name in names if name in known}})
    except ValueError:  # written by another version
        return params
