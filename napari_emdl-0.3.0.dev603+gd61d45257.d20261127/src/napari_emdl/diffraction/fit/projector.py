"""Distortion of a projector beyond the ellipse: where a camera shows what lies elsewhere.

With z = ((row - row0) + i (col - col0)) / R in the undistorted pattern, its conjugate z* and complex coefficients c in px,

    shown = undistorted + sum of c_ab z^a z*^b,   a + b = 2 (second order) or 3 (third order)

z z z* is the round third order of a lens: barrel or pincushion (real part) and spiral (imaginary part); z* z* is the three-fold
distortion; z z and z z* are what is left of the third order where its axis is not in the middle. First order is no part of it:
an ellipse looks like a strain (see :func:`napari_emdl.diffraction.fit.calibrate.measure_ellipse`).

Orders of projector distortion: Hawkes and Kasper, Principles of Electron Optics I (2018), chapter 24; its influence on strain:
Mahr et al., Ultramicroscopy 196 (2019) 74.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Complexes = NDArray[np.complex128]

#: Groups of terms, each with the powers (a, b) of z and z*.
GROUPS: dict[str, tuple[tuple[int, int], ...]] = {
    "third": ((2, 1),),
    "second": ((2, 0), (1, 1), (0, 2)),
    "other third": ((3, 0), (1, 2), (0, 3)),
}
_WORDS = {
    "third": "third order (barrel or pincushion, spiral)",
    "second": "second order (with three-fold)",
    "other third": "third order without symmetry",
}
_NEWTON_STEPS = 12


def powers_of(groups: tuple[str, ...]) -> list[tuple[int, int]]:
    """Powers (a, b) of the terms of some groups, in their order."""
    return [power for group in groups for power in GROUPS[group]]


@dataclass(frozen=True)
class Distortion:
    """Distortion that a whole scan shares.

    Attributes
    ----------
    centre_px, scale_px
        (row, col) that stays where it is, and R: about the farthest disk.
    groups
        Terms that it has, of :data:`GROUPS`.
    coefficients_px
        (2 t,) real and imaginary part of each term in turn: the shift at distance R.
    covariance
        (2 t, 2 t) of them in px², with reflections that are alike counted once.
    before_px, after_px
        Robust rms distance of disks from their lattices without and with the correction.
    held_out
        Mean distance of reflections that a fit has not seen with the correction, over that without; NaN where not measured.
    source
        "scan", or the file of the standard.
    """

    centre_px: tuple[float, float]
    scale_px: float
    groups: tuple[str, ...]
    coefficients_px: Floats
    covariance: Floats
    before_px: float = float("nan")
    after_px: float = float("nan")
    held_out: float = float("nan")
    source: str = "scan"

    def distorted(self, place_px: ArrayLike) -> Floats:
        """(..., 2) where the camera shows what lies at `place_px` of the undistorted pattern."""
        place = np.asarray(place_px, float)
        return place + _pairs(self._shift(self._z(place)))

    def undistorted(self, place_px: ArrayLike) -> Floats:
        """(..., 2) inverse of :meth:`distorted`, by Newton's method."""
        shown = np.asarray(place_px, float)
        place = shown.copy()
        for _ in range(_NEWTON_STEPS):
            z = self._z(place)
            missing = _complex(shown - place) - self._shift(z)
            step = self._solved(z, missing)
            place = place + _pairs(step)
            if not np.any(np.abs(step) > 1e-9):
                break
        return place

    def stretch(self, place_px: ArrayLike) -> Floats:
        """(...) length in the undistorted pattern of a pixel of the camera, the geometric mean over directions."""
        along, across = self._slopes(self._z(np.asarray(place_px, float)))
        return np.asarray(1 / np.sqrt(np.maximum(np.abs(1 + along) ** 2 - np.abs(across) ** 2, 1e-2)), dtype=np.float64)

    def columns(self, place_px: Floats) -> Floats:
        """(N, 2, 2 t) change of the undistorted place, as found from the shown one, by each coefficient."""
        z = self._z(place_px)
        out = np.empty((*place_px.shape, 2 * len(self._powers)))
        for k, (a, b) in enumerate(self._powers):
            term = z**a * z.conj() ** b
            for part, unit in enumerate((1.0, 1j)):
                out[..., 2 * k + part] = _pairs(self._solved(z, -unit * term))
        return out

    def facts(self) -> dict[str, Any]:
        """For a result's attributes and provenance: "text" is :meth:`line`."""
        return {"text": self.line(), **asdict(self)}

    def line(self) -> str:
        """What was corrected, in words."""
        what = " and ".join(_WORDS[group] for group in self.groups)
        text = f"projector distortion corrected: {what}, up to {self.largest_px:.1f} px at {self.scale_px:.0f} px"
        if np.isfinite(self.before_px):
            text += f"; disks lie {self.after_px:.2f} px from their lattice (before: {self.before_px:.2f})"
        return text if self.source == "scan" else f"{text}; measured on {self.source}"

    @property
    def largest_px(self) -> float:
        """Largest shift at the distance R."""
        turn = np.exp(1j * np.linspace(0, 2 * np.pi, 72, endpoint=False))
        return float(np.abs(self._shift(turn)).max())

    @property
    def _powers(self) -> list[tuple[int, int]]:
        return powers_of(self.groups)

    @property
    def _coefficients(self) -> Complexes:
        parts = np.asarray(self.coefficients_px, float)
        return np.asarray(parts[0::2] + 1j * parts[1::2], dtype=np.complex128)

    def _z(self, place: Floats) -> Complexes:
        return _complex(place - np.asarray(self.centre_px)) / self.scale_px

    def _shift(self, z: Complexes) -> Complexes:
        return sum(
            (c * z**a * z.conj() ** b for c, (a, b) in zip(self._coefficients, self._powers, strict=True)), np.zeros_like(z)
        )

    def _slopes(self, z: Complexes) -> tuple[Complexes, Complexes]:
        """Change of the shift by z and by its conjugate, px a px."""
        along, across = np.zeros_like(z), np.zeros_like(z)
        for c, (a, b) in zip(self._coefficients, self._powers, strict=True):
            if a:
                along = along + c * a * z ** (a - 1) * z.conj() ** b / self.scale_px
            if b:
                across = across + c * b * z**a * z.conj() ** (b - 1) / self.scale_px
        return along, across

    def _solved(self, z: Complexes, right: Complexes) -> Complexes:
        """Step of the undistorted place that moves the shown one by `right`."""
        along, across = self._slopes(z)
        size = np.maximum(np.abs(1 + along) ** 2 - np.abs(across) ** 2, 1e-2)
        return np.asarray(((1 + along).conj() * right - across * right.conj()) / size, dtype=np.complex128)


def none_at(centre_px: ArrayLike, scale_px: float, groups: tuple[str, ...] = ()) -> Distortion:
    """A distortion of nothing, with the terms of `groups` at zero."""
    row, col = (float(v) for v in np.asarray(centre_px, float))
    n = 2 * len(powers_of(groups))
    return Distortion((row, col), float(scale_px), groups, np.zeros(n), np.zeros((n, n)))


def _complex(pairs: Floats) -> Complexes:
    return np.asarray(pairs[..., 0] + 1j * pairs[..., 1], dtype=np.complex128)


def _pairs(values: Complexes) -> Floats:
    return np.stack([values.real, values.imag], axis=-1)
