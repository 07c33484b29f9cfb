"""Diffraction patterns with exact truth, rendered from a beam library: every call draws a new microscope and detector.

Beams are added as complex amplitudes, so overlapping disks interfere. `render_batch` renders many patterns at once on any
device; with the same seed a device always gives the same patterns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F

from napari_emdl.base.physics import wavelength_A
from napari_emdl.training.diffraction.background import (
    background_fraction,
    column,
    diffuse_background,
    open_pixels,
    spread,
    tail_weight,
)
from napari_emdl.training.diffraction.camera import detect, seen_fraction, white_level
from napari_emdl.training.diffraction.library import Run
from napari_emdl.training.diffraction.scene import RenderConfig, Scene, draw_scene

#: Patterns rendered in one go: more do not help a GPU, and the largest disk sets the size of all patches.
CHUNK = 64


#: Standard deviation of the background under a disk at infinite dose, as a part of it.
LEAST_CONTRAST = 0.006


@dataclass
class Pattern:
    """A rendered pattern with its truth; positions are (row, col) in pixels. All but counts and probe lie on the CPU.

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
class _Geometry:
    """Where the disks of one pattern lie: see `_detector_geometry`."""

    centre: np.ndarray
    basis: np.ndarray
    inverse: np.ndarray
    seen: np.ndarray
    reach: float


@dataclass(frozen=True)
class _Patches:
    """Pixels around every disk of a batch, (N, P, P): amplitude, k vectors, flat pixel index, mask; `which` (N,) pattern."""

    amplitude: torch.Tensor
    k: torch.Tensor
    index: torch.Tensor
    mask: torch.Tensor
    which: torch.Tensor


def _aperture(k: torch.Tensor, scenes: list[Scene], which: torch.Tensor | None = None) -> torch.Tensor:
    """Intensity of the illumination at k (B or N, P, Q, 2): aperture with an edge many pixels wide, ring, unevenness."""

    def of(values: list[float]) -> torch.Tensor:
        all_values = column(values, k.device)
        return all_values if which is None else all_values[which]

    radius = torch.linalg.vector_norm(k, dim=-1)
    semiangle = of([s.semiangle_invA for s in scenes])
    width = of([s.edge_px * s.sampling_invA for s in scenes])
    out = ((semiangle - radius) / width + 0.5).clamp(0, 1)
    if any(s.hollow[0] for s in scenes):
        inner = of([s.hollow[0] for s in scenes]) * semiangle
        hole = (1 - of([s.hollow[1] for s in scenes])) * (inner > 0)
        out = out * (1 - hole * ((inner - radius) / width + 0.5).clamp(0, 1))
    if any(s.ripple.any() for s in scenes):
        x, y = k[..., 0] / semiangle, k[..., 1] / semiangle
        a = [of([float(s.ripple[j]) for s in scenes]) for j in range(5)]
        amplitude = 1 + a[0] * x + a[1] * y + a[2] * x * y + a[3] * (x * x - y * y) + a[4] * torch.cos(7 * (x * x + y * y))
        out = out * amplitude.clamp_min(0.2) ** 2
    return out


def render(
    run: Run,
    scene: Scene,
    config: RenderConfig,
    generator: torch.Generator | None = None,
    noise: bool = True,
    probe: bool = True,
) -> Pattern:
    """Render one pattern on the CPU; see `render_batch`."""
    return render_batch([run], [scene], config, generator, noise, probe)[0]


def render_batch(
    runs: list[Run],
    scenes: list[Scene],
    config: RenderConfig,
    generator: torch.Generator | None = None,
    noise: bool = True,
    probe: bool = True,
    device: torch.device | str = "cpu",
) -> list[Pattern]:
    """Render patterns.

    Parameters
    ----------
    runs
        Beams of a crystal for each pattern, all simulated for the same number of incident directions.
    scenes
        What `draw_scene` drew, one for each.
    config
        Ranges; only `size_px` is used.
    generator
        Source of the noise, on `device`.
    noise
        False returns expected counts.
    probe
        False leaves the vacuum probes empty, which saves time where they are not needed.
    """
    n, count = config.size_px, len(scenes)
    geometry = [_detector_geometry(run, scene, n) for run, scene in zip(runs, scenes, strict=True)]
    centre = torch.tensor(np.concatenate([g.centre[g.seen] for g in geometry]), dtype=torch.float32)
    patches = _patches(runs, scenes, geometry, centre.to(device), n)
    own, image = _disks(patches, scenes, n)
    scale = column([s.dose_e / (math.pi * s.radius_px**2) for s in scenes], device)
    elastic = column([1 - background_fraction(s) for s in scenes], device)
    bases = [g.basis for g in geometry]
    expected = spread(image * scale * elastic, scenes, specimen=True)
    dose = column([s.dose_e for s in scenes], device)
    expected = expected + dose * diffuse_background(scenes, bases, n, generator, device)
    open_part = open_pixels(scenes, n, device)
    expected = expected * open_part
    kept = column([(1 - background_fraction(s)) * (1 - tail_weight(s)) for s in scenes], device)
    own_counts, snr = _signal(patches, own * (scale * kept)[patches.which], expected, open_part, scenes)
    vacuum = _probe_images(scenes, geometry, n, device) if probe else [torch.empty(0)] * count
    if noise:
        expected = detect(expected, open_part, scenes, generator)
        vacuum = torch.poisson(vacuum, generator) if isinstance(vacuum, torch.Tensor) else vacuum
    parts = [len(g.seen) for g in geometry]
    pieces = (torch.split(x.cpu(), parts) for x in (centre, own_counts, snr))
    return [
        Pattern(image, vac, c, run.hk[g.seen], run.v_V[g.seen], o, q, g.basis, s.origin_px, s.radius_px, _meta(run, s))
        for image, vac, run, g, s, c, o, q in zip(expected, vacuum, runs, geometry, scenes, *pieces, strict=True)
    ]


def _meta(run: Run, scene: Scene) -> dict:
    return run.meta | {
        "thickness_nm": float(run.meta["thickness_A"][scene.thickness_index]) / 10,
        "dose_e": scene.dose_e,
        "semiangle_invA": scene.semiangle_invA,
        "sampling_invA": scene.sampling_invA,
    }


def _detector_geometry(run: Run, scene: Scene, n: int) -> _Geometry:
    """Centres (row, col) of all beams, the strained basis in pixels, and the matrix from (dx, dy) in pixels to k in 1/A."""
    c, s = math.cos(scene.rotation_rad), math.sin(scene.rotation_rad)
    to_px = scene.ellipse @ np.array([[c, -s], [s, c]]) / scene.sampling_invA
    strained = run.g_invA.astype(float) @ np.linalg.inv(scene.deformation)
    xy = strained @ to_px.T
    centre = scene.origin_px + xy[:, ::-1]
    basis = np.linalg.lstsq(run.hk.astype(float), centre - scene.origin_px, rcond=None)[0]
    stretch = float(np.linalg.norm(scene.ellipse, 2))
    reach = scene.radius_px * stretch + scene.edge_px / 2 * stretch + 1
    seen = np.flatnonzero(np.all((centre > -reach) & (centre < n - 1 + reach), axis=1))
    return _Geometry(centre, basis, np.linalg.inv(to_px), seen, reach)


def _patches(runs: list[Run], scenes: list[Scene], geometry: list[_Geometry], centre: torch.Tensor, n: int) -> _Patches:
    """Amplitude on the pixels around each disk."""
    device = centre.device
    half = math.ceil(max(g.reach for g in geometry))
    counts = [len(g.seen) for g in geometry]
    which = torch.tensor(np.repeat(np.arange(len(scenes)), counts), device=device)
    of = lambda values: torch.tensor(values, dtype=torch.float32, device=device)[which][:, None, None]  # noqa: E731
    stored = np.concatenate([r.amplitude[s.thickness_index][g.seen] for r, s, g in zip(runs, scenes, geometry, strict=True)])
    offset = torch.arange(-half, half + 1, device=device)
    row = centre[:, 0].round().long()[:, None] + offset
    col = centre[:, 1].round().long()[:, None] + offset
    dy, dx = row - centre[:, :1], col - centre[:, 1:]
    m = torch.tensor(np.array([g.inverse for g in geometry]), dtype=torch.float32, device=device)[which][..., None, None]
    kx = m[:, 0, 0] * dx[:, None, :] + m[:, 0, 1] * dy[:, :, None]
    ky = m[:, 1, 0] * dx[:, None, :] + m[:, 1, 1] * dy[:, :, None]
    k = torch.stack([kx, ky], -1)
    grid = k / of([r.meta["k_max_invA"] for r in runs])[..., None]
    field_ = torch.as_tensor(stored).to(device).float().permute(0, 3, 1, 2)
    values = F.grid_sample(field_, grid, mode="bicubic", padding_mode="border", align_corners=True)
    # The propagation phase taken out at simulation returns here, exactly.
    g = torch.tensor(np.concatenate([r.g_invA[o.seen] for r, o in zip(runs, geometry, strict=True)]), device=device).float()
    qx = g[:, 0, None, None] + kx + of([r.meta["tilt_invA"][0] for r in runs])
    qy = g[:, 1, None, None] + ky + of([r.meta["tilt_invA"][1] for r in runs])
    wavelength = [wavelength_A(r.meta["energy_keV"]) for r in runs]
    slab = [w * float(r.meta["thickness_A"][s.thickness_index]) for w, r, s in zip(wavelength, runs, scenes, strict=True)]
    defocus = [w * s.defocus_A for w, s in zip(wavelength, scenes, strict=True)]
    phase = (
        -0.5 * math.pi * of(slab) * (qx * qx + qy * qy)
        - math.pi * of(defocus) * (kx * kx + ky * ky)
        - 2 * math.pi * (kx * of([s.probe_shift_A[0] for s in scenes]) + ky * of([s.probe_shift_A[1] for s in scenes]))
    )
    amplitude = torch.complex(values[:, 0], values[:, 1]) * torch.polar(torch.ones_like(phase), phase)
    mask = (((row >= 0) & (row < n))[:, :, None] & ((col >= 0) & (col < n))[:, None, :]).float()
    index = which[:, None, None] * (n * n) + row.clamp(0, n - 1)[:, :, None] * n + col.clamp(0, n - 1)[:, None, :]
    return _Patches(amplitude, k, index, mask, which)


def _disks(patches: _Patches, scenes: list[Scene], n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Intensity of each disk by itself (N, P, P), and of all together (B, n, n); both for one electron a disk's area."""
    p, device = patches, patches.k.device
    aperture = _aperture(p.k, scenes, p.which)
    intensity = p.amplitude.abs().square()
    amplitude = p.amplitude
    if any(s.evenness for s in scenes):
        weight = aperture * p.mask
        mean = (intensity * weight).sum((1, 2), keepdim=True) / weight.sum((1, 2), keepdim=True).clamp_min(1e-6)
        intensity = torch.lerp(intensity, mean.expand_as(intensity), column([s.evenness for s in scenes], device)[p.which])
    own = intensity * aperture * p.mask
    size = len(scenes) * n * n
    apart = torch.zeros(size, device=device).index_add_(0, p.index.reshape(-1), own.reshape(-1))
    coherence = column([s.coherence for s in scenes], device)
    if not any(s.coherence for s in scenes):
        return own, apart.reshape(-1, n, n)
    together = torch.zeros(size, dtype=torch.complex64, device=device)
    together.index_add_(0, p.index.reshape(-1), (amplitude * (aperture.sqrt() * p.mask)).reshape(-1))
    together = together.abs().square()
    return own, coherence * together.reshape(-1, n, n) + (1 - coherence) * apart.reshape(-1, n, n)


def _signal(
    patches: _Patches, own: torch.Tensor, expected: torch.Tensor, open_part: torch.Tensor, scenes: list[Scene]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Expected counts of each disk (N,) and its signal to noise ratio after all the camera leaves of it.

    To the noise of the counts comes a part of the background itself, whose slope and texture look like disks at any dose.
    """
    p, device = patches, expected.device
    through = open_part.reshape(-1)[p.index]
    semiangle = column([s.semiangle_invA for s in scenes], device)[p.which]
    in_disk = (torch.linalg.vector_norm(p.k, dim=-1) < semiangle) * p.mask * (through > 0)
    own_counts = (own * through).sum((1, 2))
    total = (expected.reshape(-1)[p.index] * in_disk).sum((1, 2))
    area = torch.tensor([math.pi * s.radius_px**2 for s in scenes], device=device)[p.which]
    rest = (total - own_counts).clamp_min(0)
    snr = own_counts / (rest.maximum(0.05 * area) + 0.1 * own_counts + (LEAST_CONTRAST * rest).square()).sqrt()
    if any(s.camera.white or s.camera.levels for s in scenes):
        gain = torch.tensor([s.gain for s in scenes], device=device)[p.which]
        bright = white_level(expected, scenes)
        snr = snr * seen_fraction(own_counts / area * gain, rest / area * gain, bright, p.which, scenes)
    return own_counts, snr


def _probe_images(scenes: list[Scene], geometry: list[_Geometry], n: int, device: torch.device | str) -> torch.Tensor:
    """Expected vacuum probes (B, n, n), centred at (n/2, n/2)."""
    offset = torch.arange(n, device=device) - n / 2
    dy, dx = offset[None, :, None], offset[None, None, :]
    m = torch.tensor(np.array([g.inverse for g in geometry]), dtype=torch.float32, device=device)[..., None, None]
    k = torch.stack([m[:, 0, 0] * dx + m[:, 0, 1] * dy, m[:, 1, 0] * dx + m[:, 1, 1] * dy], -1)
    probe = spread(_aperture(k, scenes), scenes, specimen=False)
    return probe * column([s.probe_dose_e / (math.pi * s.radius_px**2) for s in scenes], device)


def draw_pattern(
    runs: list[Run],
    config: RenderConfig,
    rng: np.random.Generator,
    generator: torch.Generator | None = None,
    probe: bool = True,
) -> Pattern:
    """A new pattern of a random run."""
    run, scene = _draw(runs, config, rng)
    return render(run, scene, config, generator, probe=probe)


def _draw(runs: list[Run], config: RenderConfig, rng: np.random.Generator) -> tuple[Run, Scene]:
    while True:
        run = runs[int(rng.integers(len(runs)))]
        scene = draw_scene(run, config, rng)
        if scene is not None:
            return run, scene


def draw_patterns(
    runs: list[Run],
    config: RenderConfig,
    count: int,
    rng: np.random.Generator,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> list[Pattern]:
    """New patterns of random runs; on a GPU many at once, those with alike disks together."""
    drawn = [_draw(runs, config, rng) for _ in range(count)]
    if torch.device(device).type == "cpu":
        return [render(run, scene, config, generator) for run, scene in drawn]
    size = lambda i: (drawn[i][0].amplitude.shape[-2], drawn[i][1].radius_px)  # noqa: E731
    order = sorted(range(count), key=size)
    out: dict[int, Pattern] = {}
    for nk in sorted({size(i)[0] for i in order}):
        alike = [i for i in order if size(i)[0] == nk]
        for start in range(0, len(alike), CHUNK):
            part = alike[start : start + CHUNK]
            made = render_batch([drawn[i][0] for i in part], [drawn[i][1] for i in part], config, generator, device=device)
            out |= dict(zip(part, made, strict=True))
    return [out[i] for i in range(count)]
