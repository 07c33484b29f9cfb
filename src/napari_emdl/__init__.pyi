"""Types of the public names, which the package itself imports when they are first used."""

from napari_emdl.atoms.find.columns import find_columns as find_columns
from napari_emdl.atoms.fit.occupancy import fit_occupancy as fit_occupancy
from napari_emdl.atoms.judge.compare import compare as compare
from napari_emdl.atoms.live.watch import watch as watch
from napari_emdl.base.errors import EmdlError as EmdlError
from napari_emdl.base.peaks import PeakTable as PeakTable
from napari_emdl.base.signals import Calibration as Calibration
from napari_emdl.base.signals import Datacube as Datacube
from napari_emdl.base.signals import Movie as Movie
from napari_emdl.diffraction.find.disks import find_disks as find_disks
from napari_emdl.diffraction.fit.strain import fit_strain as fit_strain
from napari_emdl.diffraction.fit.turn import turn_strain as turn_strain
from napari_emdl.diffraction.judge.gain import check_gain as check_gain
from napari_emdl.exporting.folder import export as export
from napari_emdl.io.opening import open as open
from napari_emdl.io.opening import open_datacube as open_datacube
from napari_emdl.io.opening import open_movie as open_movie
from napari_emdl.io.results import load as load
from napari_emdl.io.results import save as save

__version__: str
