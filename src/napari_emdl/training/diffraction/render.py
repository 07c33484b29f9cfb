"""Diffraction patterns with exact truth, rendered from a beam library: every call draws a new microscope and detector.

Beams are added as complex amplitudes, so overlapping disks interfere. Everything runs on torch's default device (`with
torch.device("cuda")` renders and adds noise on the GPU).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict

from napari_emdl.base.physics import wavelength_A
from napari_emdl.training.diffraction.library import Run


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


@dataclass
class Pattern:
    """A rendered pattern with its truth; positions are (row, col) in pixels.

    Attributes
    ----------
    counts, probe
        Pattern and vacuum probe, (H, W) float32 counts.
    centre_px
        Centres of all beams whose disk touches the field of view, (n, 2).
    hk, v_V
        Their indices and |V_g| in volt.
    own_counts, snr
        Expected counts of each disk and its signal to noise ratio.
    basis_px
        Strained reciprocal basis vectors on the detector, rows (2, 2); a disk lies at origin + (h, k) @ basis.
    """

    counts: torch.Tensor
    probe: torch.Tensor
    centre_px: torch.Tensor
    hk: np.ndarray
    v_V: np.ndarray
    own_counts: torch.Tensor
    snr: torch.Tensor
    basis_px: np.ndarray
    origin_px: np.ndarray
    radius_px: float
    meta: dict = field(default_factory=dict)

    @property
    def visibility(self) -> torch.Tensor:
        """Soft visibility 0..1, one half at a signal of 4.5 sigma."""
        return torch.sigmoid(3 * torch.log2(self.snr.clamp_min(1e-3) / 4.5))


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
    beam_stop_radii: float
    gain: float = 1.0
    window_px: tuple[int, int, int, int] = (0, 0, 0, 0)


def draw_scene(run: Run, config: RenderConfig, rng: np.random.Generator) -> Scene | None:
    """Draw a scene for a run, or None where no detector in range can show this run's disks."""
    k_top = run.meta["k_max_invA"] / 1.06
    semiangle = k_top * rng.uniform(config.min_semiangle_fraction, 1.0)
    low = max(config.sampling_invA[0], semiangle / config.radius_px[1])
    high = min(config.sampling_invA[1], semiangle / config.radius_px[0])
    if low >= high:
        return None
    sampling = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    stretch = 0.5 * config.ellipticity * rng.random() ** 1.5 if rng.random() < 0.5 else 0.0
    angle = rng.uniform(0, np.pi)
    axis = np.array([np.cos(angle), np.sin(angle)])
    ellipse = np.eye(2) * (1 - stretch) + 2 * stretch * np.outer(axis, axis)
    e = rng.uniform(-config.strain, config.strain, 3)
    artefact = lambda: rng.random() < config.probability_artefact  # noqa: E731
    shift = rng.normal(0, config.origin_shift_px / 3, 2) if rng.random() < 0.6 else rng.uniform(-0.5, 0.5, 2)
    edge = (1e-3, 1.0, float(rng.uniform(1.0, 2.5)))[rng.choice(3, p=(0.4, 0.35, 0.25))]
    if config.probability_soft and rng.random() < config.probability_soft:
        edge = float(rng.uniform(0.25, 1.0)) * semiangle / sampling
    centre = (config.size_px - 1) / 2 if rng.random() < 0.3 else config.size_px / 2
    low_dose, mode, high_dose = config.log10_dose
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
        coherence=1.0 if rng.random() < 0.4 else float(rng.random()),
        dose_e=10 ** float(rng.triangular(low_dose, mode, high_dose)),
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
        beam_stop_radii=float(rng.uniform(1.0, 2.0)) if rng.random() < 0.04 else 0.0,
        gain=float(np.exp(rng.uniform(0, np.log(60)))) if rng.random() < config.probability_gain else 1.0,
        window_px=_draw_window(config, rng),
    )


def _draw_window(config: RenderConfig, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Empty margins (top, bottom, left, right) of a pattern that does not fill the grid."""
    if rng.random() >= config.probability_window:
        return (0, 0, 0, 0)
    margins = rng.integers(0, config.size_px // 6, 4) * (rng.random(4) < 0.6)
    return (int(margins[0]), int(margins[1]), int(margins[2]), int(margins[3]))


def _aperture(k: torch.Tensor, scene: Scene) -> torch.Tensor:
    """Intensity transmitted by the condenser aperture at k (..., 2), with an edge that many detector pixels wide."""
    radius = torch.linalg.vector_norm(k, dim=-1)
    width = scene.edge_px * scene.sampling_invA
    return ((scene.semiangle_invA - radius) / width + 0.5).clamp(0, 1)


def _ripple(k: torch.Tensor, scene: Scene) -> torch.Tensor:
    """Relative amplitude of the probe over the aperture: tilt and curvature of the illumination."""
    if not scene.ripple.any():
        return torch.ones(k.shape[:-1])
    x, y = k[..., 0] / scene.semiangle_invA, k[..., 1] / scene.semiangle_invA
    a = [float(v) for v in scene.ripple]
    return (1 + a[0] * x + a[1] * y + a[2] * x * y + a[3] * (x * x - y * y) + a[4] * torch.cos(7 * (x * x + y * y))).clamp_min(
        0.2
    )


def _gaussian_blur(image: torch.Tensor, sigma_px: float) -> torch.Tensor:
    half = math.ceil(3.5 * sigma_px) + 1
    x = torch.arange(-half, half + 1, dtype=image.dtype, device=image.device)
    kernel = torch.exp(-0.5 * (x / sigma_px) ** 2)
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1)
    blurred = F.conv2d(image[None, None], kernel, padding=(0, half))
    return F.conv2d(blurred, kernel.transpose(2, 3), padding=(half, 0))[0, 0]


def _plasmon(image: torch.Tensor, weight: float, width_px: float) -> torch.Tensor:
    """Move a part of all intensity into Lorentzian tails (plasmon scattering)."""
    n = image.shape[-1]
    f = torch.fft.fftfreq(n, device=image.device)
    fr = torch.sqrt(f[:, None] ** 2 + f[None, : n // 2 + 1].abs() ** 2)
    tail = torch.exp(-2 * math.pi * width_px * fr)  # Fourier transform of (1 + r^2/w^2)^-3/2
    spectrum = torch.fft.rfft2(image)
    return torch.fft.irfft2(spectrum * (1 - weight + weight * tail), s=image.shape).clamp_min(0)


def render(
    run: Run,
    scene: Scene,
    config: RenderConfig,
    generator: torch.Generator | None = None,
    noise: bool = True,
    probe: bool = True,
) -> Pattern:
    """Render one pattern.

    Parameters
    ----------
    run
        Beams of a crystal.
    scene
        What `draw_scene` drew.
    config
        Ranges; only `size_px` is used.
    generator
        Source of the noise.
    noise
        False returns expected counts.
    probe
        False leaves the vacuum probe empty, which saves time where it is not needed.
    """
    n = config.size_px
    centre, basis, inverse = _detector_geometry(run, scene)
    reach = scene.semiangle_invA / scene.sampling_invA * (1 + 0.5 * config.ellipticity) + scene.edge_px / 2 + 1
    seen = np.flatnonzero(np.all((centre > -reach) & (centre < n - 1 + reach), axis=1))
    centre_t = torch.tensor(centre[seen], dtype=torch.float32)
    amplitude, k, index, mask = _patches(run, scene, seen, centre_t, inverse, math.ceil(reach), n)
    aperture = _aperture(k, scene) * _ripple(k, scene) ** 2
    own = amplitude.abs().square() * aperture * mask
    field_sum = torch.zeros(n * n, dtype=torch.complex64)
    field_sum.index_add_(0, index.reshape(-1), (amplitude * (aperture.sqrt() * mask)).reshape(-1))
    apart = torch.zeros(n * n).index_add_(0, index.reshape(-1), own.reshape(-1))
    image = (scene.coherence * field_sum.abs().square() + (1 - scene.coherence) * apart).reshape(n, n)
    radius = scene.semiangle_invA / scene.sampling_invA
    scale = scene.dose_e / (math.pi * radius**2)
    expected, stop = _add_background(image * scale, scene, n, radius)
    in_disk = (torch.linalg.vector_norm(k, dim=-1) < scene.semiangle_invA) * mask * stop.reshape(-1)[index]
    own_counts = (own * scale * stop.reshape(-1)[index]).sum((1, 2))
    total = (expected.reshape(-1)[index] * in_disk).sum((1, 2))
    floor = 0.05 * math.pi * radius**2
    snr = own_counts / ((total - own_counts).clamp_min(floor) + 0.1 * own_counts).sqrt()
    vacuum = _probe_image(scene, inverse, n, radius) if probe else torch.empty(0)
    if noise:
        expected, vacuum = _detect(expected, stop, scene, generator), torch.poisson(vacuum, generator)
    meta = run.meta | {
        "thickness_nm": float(run.meta["thickness_A"][scene.thickness_index]) / 10,
        "dose_e": scene.dose_e,
        "semiangle_invA": scene.semiangle_invA,
        "sampling_invA": scene.sampling_invA,
    }
    return Pattern(
        expected, vacuum, centre_t, run.hk[seen], run.v_V[seen], own_counts, snr, basis, scene.origin_px, radius, meta
    )


def _detector_geometry(run: Run, scene: Scene) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centres (row, col) of all beams, the strained basis in pixels, and the matrix from (dx, dy) in pixels to k in 1/A."""
    c, s = math.cos(scene.rotation_rad), math.sin(scene.rotation_rad)
    to_px = scene.ellipse @ np.array([[c, -s], [s, c]]) / scene.sampling_invA
    strained = run.g_invA.astype(float) @ np.linalg.inv(scene.deformation)
    xy = strained @ to_px.T
    centre = scene.origin_px + xy[:, ::-1]
    basis = np.linalg.lstsq(run.hk.astype(float), centre - scene.origin_px, rcond=None)[0]
    return centre, basis, np.linalg.inv(to_px)


def _patches(
    run: Run, scene: Scene, seen: np.ndarray, centre: torch.Tensor, inverse: np.ndarray, half: int, n: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Amplitude on the pixels around each disk: complex values, k vectors, flat pixel index, and mask of pixels in view."""
    wavelength = wavelength_A(run.meta["energy_keV"])
    stored = torch.as_tensor(run.amplitude[scene.thickness_index][seen].astype(np.float32))
    offset = torch.arange(-half, half + 1)
    row = centre[:, 0].round().long()[:, None] + offset
    col = centre[:, 1].round().long()[:, None] + offset
    dy, dx = row - centre[:, :1], col - centre[:, 1:]
    m = torch.tensor(inverse, dtype=torch.float32)
    kx = m[0, 0] * dx[:, None, :] + m[0, 1] * dy[:, :, None]
    ky = m[1, 0] * dx[:, None, :] + m[1, 1] * dy[:, :, None]
    k = torch.stack([kx, ky], -1)
    values = F.grid_sample(
        stored.permute(0, 3, 1, 2), k / run.meta["k_max_invA"], mode="bicubic", padding_mode="border", align_corners=True
    )
    # The propagation phase taken out at simulation returns here, exactly.
    tilt = run.meta["tilt_invA"]
    g = torch.tensor(run.g_invA[seen], dtype=torch.float32)[:, None, None]
    thickness = float(run.meta["thickness_A"][scene.thickness_index])
    qx, qy = g[..., 0] + kx + tilt[0], g[..., 1] + ky + tilt[1]
    shift = [float(v) for v in scene.probe_shift_A]
    phase = (
        -0.5 * math.pi * wavelength * thickness * (qx * qx + qy * qy)
        - math.pi * wavelength * scene.defocus_A * (kx * kx + ky * ky)
        - 2 * math.pi * (kx * shift[0] + ky * shift[1])
    )
    amplitude = torch.complex(values[:, 0], values[:, 1]) * torch.polar(torch.ones_like(phase), phase)
    mask = (((row >= 0) & (row < n))[:, :, None] & ((col >= 0) & (col < n))[:, None, :]).float()
    index = row.clamp(0, n - 1)[:, :, None] * n + col.clamp(0, n - 1)[:, None, :]
    return amplitude, k, index, mask


def _add_background(image: torch.Tensor, scene: Scene, n: int, radius: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Expected counts with inelastic and diffuse background, and the mask of what a beam stop or the margins leave."""
    y, x = torch.meshgrid(
        torch.arange(n) - float(scene.origin_px[0]), torch.arange(n) - float(scene.origin_px[1]), indexing="ij"
    )
    distance2 = x * x + y * y
    fraction, width, mix = scene.halo
    gauss = torch.exp(-0.5 * distance2 / width**2)
    power = (1 + distance2 / width**2) ** -1.5
    halo = mix * gauss / gauss.sum() + (1 - mix) * power / power.sum()
    flat = scene.flat_fraction
    if scene.plasmon[0] > 0:
        image = _plasmon(image, scene.plasmon[0], scene.plasmon[1] * radius)
    expected = image * (1 - fraction - flat) + scene.dose_e * (fraction * halo + flat / (n * n))
    if scene.psf_sigma_px > 0.15:
        expected = _gaussian_blur(expected, scene.psf_sigma_px)
    stop = torch.ones(n, n)
    if scene.beam_stop_radii:
        reach = scene.beam_stop_radii * radius
        stop = ((distance2 > reach**2) & ~((x.abs() < 0.6 * reach) & (y < 0))).float()
    top, bottom, left, right = scene.window_px
    stop[:top], stop[n - bottom :], stop[:, :left], stop[:, n - right :] = 0, 0, 0, 0
    return expected * stop, stop


def _detect(expected: torch.Tensor, stop: torch.Tensor, scene: Scene, generator: torch.Generator | None) -> torch.Tensor:
    """Counts with Poisson noise and the detector's faults."""
    if scene.gain_ripple:
        expected = expected * (1 + scene.gain_ripple * torch.randn(expected.shape, generator=generator)).clamp_min(0.1)
    counts = scene.gain * torch.poisson(expected, generator)
    if scene.readout_e:
        counts = counts + scene.readout_e * torch.randn(counts.shape, generator=generator)
    flat = counts.view(-1)
    if scene.hot:
        where = torch.randint(flat.numel(), (scene.hot,), generator=generator)
        flat[where] = float(counts.max()) * (0.2 + 1.8 * torch.rand(scene.hot, generator=generator))
    if scene.dead:
        flat[torch.randint(flat.numel(), (scene.dead,), generator=generator)] = 0.0
    return counts


def _probe_image(scene: Scene, inverse: np.ndarray, n: int, radius: float) -> torch.Tensor:
    """Expected vacuum probe, centred at (n/2, n/2)."""
    offset = torch.arange(n) - n / 2
    dy, dx = torch.meshgrid(offset, offset, indexing="ij")
    m = [[float(v) for v in row] for row in inverse]
    k = torch.stack([m[0][0] * dx + m[0][1] * dy, m[1][0] * dx + m[1][1] * dy], -1)
    probe = _aperture(k, scene) * _ripple(k, scene) ** 2
    if scene.psf_sigma_px > 0.15:
        probe = _gaussian_blur(probe, scene.psf_sigma_px)
    return probe * (scene.probe_dose_e / (math.pi * radius**2))


def draw_pattern(
    runs: list[Run],
    config: RenderConfig,
    rng: np.random.Generator,
    generator: torch.Generator | None = None,
    probe: bool = True,
) -> Pattern:
    """A new pattern of a random run."""
    while True:
        run = runs[int(rng.integers(len(runs)))]
        scene = draw_scene(run, config, rng)
        if scene is not None:
            return render(run, scene, config, generator, probe=probe)
