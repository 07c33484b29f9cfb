"""What is drawn about microscope and detector for one pattern, and the ranges it is drawn from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from napari_emdl.training.diffraction.library import Run

#: Shapes of a beam stop.
STOPS = ("disk", "bar", "wedge", "square")


class Effects(BaseModel):
    """How often patterns have what cameras, lenses and thick crystals do beyond the plain renderer; all 0: never.

    Attributes
    ----------
    tails, tail_weight, tail_radii
        Share of patterns whose disks have a halo of their own (lens, point spread function); largest part of a disk's
        intensity in it, and its width in disk radii.
    rings, ring_width, kikuchi, texture
        Amorphous rings and their width over their radius, Kikuchi bands in the diffuse background, slow random variation of it.
    hollow, flat
        Disks that are rings (hollow cone, ring-shaped aperture), disks without inner contrast (precession).
    saturation, blooming
        Counts cut at a full well below the brightest pixel, and the streaks of what flows over.
    bent
        Exports with gamma or logarithm, or in 8 bit: counts in no unit.
    dark
        Dark counts subtracted too little or too much.
    gaps, stop, stop_radii
        Dead rows and columns between the modules of a detector; beam stops of several shapes, and their half width in disk
        radii.
    resampled
        Exports that were scaled, so that neighbouring pixels share their noise.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    tails: float = 0.0
    tail_weight: float = Field(default=0.75, ge=0, lt=0.95)
    tail_radii: tuple[float, float] = (0.3, 4.0)
    rings: float = 0.0
    ring_width: tuple[float, float] = (0.05, 0.25)
    kikuchi: float = 0.0
    texture: float = 0.0
    hollow: float = 0.0
    flat: float = 0.0
    saturation: float = 0.0
    blooming: float = 0.0
    bent: float = 0.0
    dark: float = 0.0
    gaps: float = 0.0
    stop: float = 0.0
    stop_radii: tuple[float, float] = (1.0, 2.0)
    resampled: float = 0.0


class RenderConfig(BaseModel):
    """Ranges of what is drawn for every pattern.

    `log10_dose` is least, most frequent, most. `probability_gain` and `probability_window` are the shares of patterns from an
    integrating camera (several counts an electron) and of patterns that do not fill the grid, `probability_soft` the share of
    probes whose edge falls off over a quarter to the whole of their radius.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    size_px: int = 256
    radius_px: tuple[float, float] = (2.2, 16.0)
    sampling_invA: tuple[float, float] = (0.006, 0.022)
    min_semiangle_fraction: float = 0.55
    strain: float = 0.04
    ellipticity: float = 0.10
    origin_shift_px: float = 10.0
    log10_dose: tuple[float, float, float] = (3.5, 5.0, 7.0)
    halo_fraction: float = 0.60
    plasmon_weight: float = 0.10
    psf_sigma_px: float = 0.8
    probability_artefact: float = 0.15
    probability_gain: float = 0.10
    probability_window: float = 0.10
    probability_soft: float = 0.0
    effects: Effects = Effects()


@dataclass(frozen=True)
class Diffuse:
    """Scattering between and around the disks.

    Attributes
    ----------
    tails
        (kind, weight, width in disk radii); kind "lorentz", "exponential" or "gauss".
    tails_on_probe
        Whether the vacuum probe has them too: they are the lens's or the camera's, not the crystal's.
    rings
        (fraction of the dose, radius in px, width in px).
    kikuchi
        (strength, centre row and col from the direct beam in px, edge in px); 0: none.
    texture
        (relative strength, correlation length in px).
    """

    tails: tuple[tuple[str, float, float], ...] = ()
    tails_on_probe: bool = False
    rings: tuple[tuple[float, float, float], ...] = ()
    kikuchi: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 1.0)
    texture: tuple[float, float] = (0.0, 1.0)


@dataclass(frozen=True)
class Camera:
    """From electrons to what is in the file.

    Attributes
    ----------
    white
        Brightest value that is kept, as a fraction of the brightest expected one; 0: nothing is cut.
    blooming
        (part of what lies above the full well that flows on, length in px, axis).
    gamma, log_strength
        Exponent of the export, or strength of a logarithm (0: none).
    levels
        Grey levels of the export; 0: not rounded.
    unit
        What the brightest level is in the file.
    pedestal
        Dark level left in the data (> 0) or taken off too much (< 0), as a fraction of the mean counts.
    gaps
        Dead lines: (axis, first, width).
    resampled_px
        Blur of a scaled export.
    normalised
        Whether counts are estimated from the noise afterwards, as the program does, or the units stay as they are.
    """

    white: float = 0.0
    blooming: tuple[float, float, int] = (0.0, 1.0, 0)
    gamma: float = 1.0
    log_strength: float = 0.0
    levels: int = 0
    unit: float = 1.0
    pedestal: float = 0.0
    gaps: tuple[tuple[int, int, int], ...] = ()
    resampled_px: float = 0.0
    normalised: bool = False

    @property
    def bent(self) -> bool:
        """Whether values are no longer proportional to counts, or in another unit."""
        return self.gamma != 1 or self.log_strength > 0 or self.levels > 0


@dataclass(frozen=True)
class Stop:
    """A beam stop: shape, half width in disk radii, direction of its arm, what it lets through."""

    shape: str = ""
    radii: float = 0.0
    angle_rad: float = 0.0
    transmission: float = 0.0


@dataclass(frozen=True)
class Scene:
    """Everything that is drawn about microscope and detector for one pattern."""

    thickness_index: int
    semiangle_invA: float
    sampling_invA: float
    rotation_rad: float
    ellipse: np.ndarray
    deformation: np.ndarray
    origin_px: np.ndarray
    edge_px: float
    defocus_A: float
    probe_shift_A: np.ndarray
    ripple: np.ndarray
    coherence: float
    dose_e: float
    probe_dose_e: float
    halo: tuple[float, float, float]
    flat_fraction: float
    plasmon: tuple[float, float]
    psf_sigma_px: float
    gain_ripple: float
    readout_e: float
    hot: int
    dead: int
    gain: float = 1.0
    window_px: tuple[int, int, int, int] = (0, 0, 0, 0)
    hollow: tuple[float, float] = (0.0, 0.0)
    evenness: float = 0.0
    stop: Stop = Stop()
    diffuse: Diffuse = Diffuse()
    camera: Camera = Camera()

    @property
    def radius_px(self) -> float:
        """Disk radius on the detector."""
        return self.semiangle_invA / self.sampling_invA


def draw_scene(run: Run, config: RenderConfig, rng: np.random.Generator) -> Scene | None:
    """Draw a scene for a run, or None where no detector in range can show this run's disks."""
    k_top = run.meta["k_max_invA"] / 1.06
    semiangle = k_top * rng.uniform(config.min_semiangle_fraction, 1.0)
    low = max(config.sampling_invA[0], semiangle / config.radius_px[1])
    high = min(config.sampling_invA[1], semiangle / config.radius_px[0])
    if low >= high:
        return None
    sampling = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    radius = semiangle / sampling
    stretch = 0.5 * config.ellipticity * rng.random() ** 1.5 if rng.random() < 0.5 else 0.0
    angle = rng.uniform(0, np.pi)
    axis = np.array([np.cos(angle), np.sin(angle)])
    ellipse = np.eye(2) * (1 - stretch) + 2 * stretch * np.outer(axis, axis)
    e = rng.uniform(-config.strain, config.strain, 3)
    artefact = lambda: rng.random() < config.probability_artefact  # noqa: E731
    happens = lambda name: rng.random() < getattr(config.effects, name)  # noqa: E731
    shift = rng.normal(0, config.origin_shift_px / 3, 2) if rng.random() < 0.6 else rng.uniform(-0.5, 0.5, 2)
    edge = (1e-3, 1.0, float(rng.uniform(1.0, 2.5)))[rng.choice(3, p=(0.4, 0.35, 0.25))]
    if config.probability_soft and rng.random() < config.probability_soft:
        edge = float(rng.uniform(0.25, 1.0)) * radius
    centre = (config.size_px - 1) / 2 if rng.random() < 0.3 else config.size_px / 2
    even = happens("flat")
    return Scene(
        thickness_index=int(rng.integers(run.amplitude.shape[0])),
        semiangle_invA=semiangle,
        sampling_invA=sampling,
        rotation_rad=float(rng.uniform(0, 2 * np.pi)),
        ellipse=ellipse,
        deformation=np.array([[1 + e[0], e[2]], [e[2], 1 + e[1]]]),
        origin_px=centre + np.clip(shift, -config.origin_shift_px, config.origin_shift_px),
        edge_px=edge,
        defocus_A=float(rng.normal(0, 600)),
        probe_shift_A=rng.uniform(-5, 5, 2),
        ripple=rng.normal(0, 0.06, 5) if artefact() else np.zeros(5),
        coherence=0.0 if even else 1.0 if rng.random() < 0.4 else float(rng.random()),
        dose_e=10 ** float(rng.triangular(*config.log10_dose)),
        probe_dose_e=10 ** float(rng.uniform(4.5, 7)),
        halo=(
            config.halo_fraction * rng.random() ** 2.5,
            float(np.exp(rng.uniform(np.log(0.12), np.log(0.9)))) * config.size_px / 2,
            float(rng.random()),
        ),
        flat_fraction=0.05 * rng.random() ** 3,
        plasmon=(config.plasmon_weight * rng.random(), float(rng.uniform(1.0, 5.0))) if rng.random() < 0.35 else (0.0, 1.0),
        psf_sigma_px=config.psf_sigma_px * rng.random() if rng.random() < 0.4 else 0.0,
        gain_ripple=0.03 * rng.random() if artefact() else 0.0,
        readout_e=0.4 * rng.random() if rng.random() < 0.07 else 0.0,
        hot=int(rng.integers(1, 8)) if artefact() else 0,
        dead=int(rng.integers(1, 12)) if artefact() else 0,
        gain=float(np.exp(rng.uniform(0, np.log(60)))) if rng.random() < config.probability_gain else 1.0,
        window_px=_draw_window(config, rng),
        hollow=(float(rng.uniform(0.4, 0.85)), 0.4 * float(rng.random()) ** 2) if happens("hollow") else (0.0, 0.0),
        evenness=float(rng.uniform(0.5, 1.0)) if even else 0.0,
        stop=_draw_stop(config, rng),
        diffuse=_draw_diffuse(config, rng),
        camera=_draw_camera(config, rng),
    )


def _draw_window(config: RenderConfig, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Empty margins (top, bottom, left, right) of a pattern that does not fill the grid."""
    if rng.random() >= config.probability_window:
        return (0, 0, 0, 0)
    margins = rng.integers(0, config.size_px // 6, 4) * (rng.random(4) < 0.6)
    return (int(margins[0]), int(margins[1]), int(margins[2]), int(margins[3]))


def _draw_stop(config: RenderConfig, rng: np.random.Generator) -> Stop:
    if rng.random() >= max(0.04, config.effects.stop):
        return Stop()
    shape = STOPS[int(rng.integers(len(STOPS)))] if config.effects.stop else "disk"
    leak = 0.05 * float(rng.random()) if rng.random() < 0.3 else 0.0
    return Stop(shape, float(rng.uniform(*config.effects.stop_radii)), float(rng.uniform(0, 2 * np.pi)), leak)


def _draw_diffuse(config: RenderConfig, rng: np.random.Generator) -> Diffuse:
    effects, size = config.effects, config.size_px
    happens = lambda name: rng.random() < getattr(effects, name)  # noqa: E731
    tails: list[tuple[str, float, float]] = []
    if happens("tails"):
        total = effects.tail_weight * float(rng.random()) ** 0.7
        shares = rng.dirichlet(np.ones(int(rng.integers(1, 4))))
        for share in shares:
            width = float(np.exp(rng.uniform(*np.log(effects.tail_radii))))
            tails.append((("lorentz", "exponential", "gauss")[int(rng.integers(3))], total * float(share), width))
    rings: list[tuple[float, float, float]] = []
    if happens("rings"):
        radius = float(rng.uniform(0.08, 0.35)) * size
        for k in range(int(rng.integers(1, 4))):
            part = 0.3 * float(rng.random()) ** 2 / (1 + k)
            rings.append((part, radius * (1 + 0.75 * k), radius * float(rng.uniform(*effects.ring_width))))
    kikuchi = (0.0, 0.0, 0.0, 1.0)
    if happens("kikuchi"):
        away = rng.normal(0, 0.12 * size, 2)
        kikuchi = (0.6 * float(rng.random()), float(away[0]), float(away[1]), float(rng.uniform(1.0, 6.0)))
    texture = (
        (0.5 * float(rng.random()), float(np.exp(rng.uniform(*np.log((3.0, 40.0)))))) if happens("texture") else (0.0, 1.0)
    )
    return Diffuse(tuple(tails), bool(rng.random() < 0.5), tuple(rings), kikuchi, texture)


def _draw_camera(config: RenderConfig, rng: np.random.Generator) -> Camera:
    effects, size = config.effects, config.size_px
    happens = lambda name: rng.random() < getattr(effects, name)  # noqa: E731
    white, gamma, strength, levels, unit = 0.0, 1.0, 0.0, 0, 1.0
    blooming = (0.0, 1.0, 0)
    if happens("saturation"):
        white = float(np.exp(rng.uniform(np.log(0.02), np.log(0.8))))
        if happens("blooming"):
            blooming = (float(rng.uniform(0.05, 0.6)), float(rng.uniform(3, 60)), int(rng.integers(2)))
    if happens("bent"):
        white = white or (1.2 if rng.random() < 0.5 else float(np.exp(rng.uniform(np.log(0.05), 0.0))))
        curve = rng.random()
        if curve < 0.45:
            gamma = float(np.exp(rng.uniform(np.log(0.25), np.log(0.9))))
        elif curve < 0.65:
            strength = 10 ** float(rng.uniform(0.5, 4))
        levels = int(rng.choice([255, 255, 255, 4095, 65535, 0]))
        unit = float(levels or 10 ** rng.uniform(-3, 4))
    elif rng.random() < 0.3 * effects.bent:
        unit = 10 ** float(rng.uniform(-3, 3))
    pedestal = 0.0
    if happens("dark"):
        pedestal = (
            float(rng.uniform(-1.0, 0.0)) if rng.random() < 0.5 else float(np.exp(rng.uniform(np.log(0.05), np.log(3.0))))
        )
    gaps: list[tuple[int, int, int]] = []
    if happens("gaps"):
        for axis in range(2):
            if rng.random() < 0.7:
                width = int(rng.integers(1, 7))
                middle = size // 2 if rng.random() < 0.6 else int(rng.integers(size))
                gaps.append((axis, max(0, middle - width // 2), width))
    resampled = float(rng.uniform(0.4, 1.2)) if happens("resampled") else 0.0
    return Camera(white, blooming, gamma, strength, levels, unit, pedestal, tuple(gaps), resampled, bool(rng.random() < 0.85))
