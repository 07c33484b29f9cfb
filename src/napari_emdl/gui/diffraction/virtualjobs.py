"""Images of virtual detectors for worker threads, and the way of the direct beam that the detectors go with."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.errors import EmdlError
from napari_emdl.base.signals import Datacube
from napari_emdl.jobs.control import Control

if TYPE_CHECKING:  # the window opens before these are needed
    from napari_emdl.diffraction.beampath import BeamPath
    from napari_emdl.diffraction.fit.strainmap import StrainMap


class BeamWay:
    """Way of the direct beam of one datacube: of the lattices fitted last, before that measured once, if `on`."""

    def __init__(self, cube: Datacube) -> None:
        self.cube, self.on = cube, True
        self.known: BeamPath | None = None
        self._asked = False
        self._lock = threading.Lock()

    def take(self, strain: StrainMap) -> bool:
        """The lattices of a strain map tell it from now on; True where that moves detectors."""
        from napari_emdl.diffraction.beampath import path_of_strain, ways_differ

        before, self._asked, self.known = self.known, True, path_of_strain(strain)
        return self.on and ways_differ(before, self.known)

    def path(self) -> BeamPath | None:
        """None where the beam rests or is not followed; reads patterns when it is asked for first."""
        from napari_emdl.diffraction.beampath import measure_path

        with self._lock:
            if self.on and not self._asked:
                measured = measure_path(self.cube)
                if not self._asked:  # no strain map came meanwhile
                    self.known, self._asked = measured, True
            return self.known if self.on else None


def virtual_image(
    control: Control,
    cube: Datacube,
    shapes: list[tuple[str, NDArray[Any]]] | None,
    on_block: Callable[..., None],
    way: BeamWay,
) -> tuple[str, str]:
    """Image of a virtual detector, block by block; `shapes` None gives the navigation image.

    Parameters
    ----------
    shapes
        (shape type, corners) in pixels of the detector as napari draws them; shapes inside each other make holes.
    way
        Of the direct beam, which detectors go with.

    Returns
    -------
    what, how
        What the image is, and a sentence where its detector goes with the beam, else "".
    """
    from napari_emdl.diffraction.navigation import navigation
    from napari_emdl.diffraction.virtual import Detector
    from napari_emdl.diffraction.virtual import virtual_image as compute
    from napari_emdl.jobs.blocks import Block

    def column(block: Any, values: NDArray[Any]) -> None:
        on_block(block, values[:, 0])

    path = way.path()
    how = "" if path is None else path.how
    if shapes is None:
        return navigation(cube, control, lambda start, stop, values: on_block(Block(0, start, stop), values), path)[1], how
    parts = [_detector(cube.detector_shape, kind, corners) for kind, corners in shapes]
    nested = reduce(lambda a, b: Detector(np.abs(a.weights - b.weights)), parts)
    if not nested.weights.any():
        raise EmdlError("the virtual detector covers no pixel; move it onto the pattern")
    compute(cube, nested, control, column, path=path)
    return "virtual image", how


def _detector(shape: tuple[int, int], kind: str, corners: NDArray[Any]) -> Any:
    from napari_emdl.diffraction.virtual import Detector

    if kind != "ellipse":
        return Detector.polygon(shape, corners)
    centre, radii = corners.mean(axis=0), np.ptp(corners, axis=0) / 2
    if np.isclose(radii[0], radii[1], rtol=1e-3):
        return Detector.disk(shape, centre, float(radii.mean()))
    angle = np.linspace(0, 2 * np.pi, 120, endpoint=False)
    return Detector.polygon(shape, centre + radii * np.stack([np.sin(angle), np.cos(angle)], axis=1))
