"""What lies between the disks: tails of the disks themselves, halo, amorphous rings, Kikuchi bands; and what hides pixels.

All functions take batches of images (B, n, n) and one scene for each, on any device. Convolutions are cyclic.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from napari_emdl.training.diffraction.scene import Scene, Stop

#: Standard deviations of the point spread function below this do not matter.
LEAST_PSF_PX = 0.15


def column(values: list[float], device: torch.device | str) -> torch.Tensor:
    """One number a scene as (B, 1, 1)."""
    return torch.tensor(values, dtype=torch.float32, device=device)[:, None, None]


def offsets(scenes: list[Scene], n: int, device: torch.device | str) -> tuple[torch.Tensor, torch.Tensor]:
    """(row, col) of every pixel from the direct beam, each broadcastable to (B, n, n)."""
    axis = torch.arange(n, dtype=torch.float32, device=device)
    origin = torch.tensor(np.array([s.origin_px for s in scenes]), dtype=torch.float32, device=device)
    return (axis[None, :] - origin[:, :1])[:, :, None], (axis[None, :] - origin[:, 1:])[:, None, :]


def _frequency(n: int, device: torch.device | str) -> torch.Tensor:
    rows = torch.fft.fftfreq(n, device=device)
    cols = torch.fft.rfftfreq(n, device=device)
    return torch.hypot(rows[:, None], cols[None, :])


def _transfer(scene: Scene, frequency: torch.Tensor, specimen: bool) -> torch.Tensor:
    """Fourier transform of everything that spreads a disk: point spread function, tails, plasmon scattering."""
    transfer = torch.ones_like(frequency)
    if scene.psf_sigma_px > LEAST_PSF_PX:
        transfer = torch.exp(-2 * (math.pi * scene.psf_sigma_px * frequency) ** 2)
    if specimen or scene.diffuse.tails_on_probe:
        spread = 1 - tail_weight(scene)
        total = spread * torch.ones_like(frequency)
        for kind, weight, radii in scene.diffuse.tails:
            x = 2 * math.pi * radii * scene.radius_px * frequency
            # Transforms of (1 + r^2/w^2)^-3/2, exp(-r/w) and a Gaussian in two dimensions.
            tail = (
                torch.exp(-x)
                if kind == "lorentz"
                else (1 + x * x) ** -1.5
                if kind == "exponential"
                else torch.exp(-0.5 * x * x)
            )
            total = total + weight * tail
        transfer = transfer * total
    weight, width = scene.plasmon
    if specimen and weight > 0:
        transfer = transfer * (1 - weight + weight * torch.exp(-2 * math.pi * width * scene.radius_px * frequency))
    return transfer


def tail_weight(scene: Scene) -> float:
    """Part of a disk's intensity that lies in its tails."""
    return sum(weight for _, weight, _ in scene.diffuse.tails)


def spread(images: torch.Tensor, scenes: list[Scene], specimen: bool) -> torch.Tensor:
    """Images (B, n, n) after point spread function and tails; `specimen` adds what only a specimen does."""
    blurred = [
        i
        for i, s in enumerate(scenes)
        if s.psf_sigma_px > LEAST_PSF_PX
        or (s.diffuse.tails and (specimen or s.diffuse.tails_on_probe))
        or (specimen and s.plasmon[0] > 0)
    ]
    if not blurred:
        return images
    n = images.shape[-1]
    frequency = _frequency(n, images.device)
    transfer = torch.stack([_transfer(scenes[i], frequency, specimen) for i in blurred])
    if len(blurred) == len(scenes):
        return torch.fft.irfft2(torch.fft.rfft2(images) * transfer, s=(n, n)).clamp_min(0)
    index = torch.tensor(blurred, device=images.device)
    out = torch.fft.irfft2(torch.fft.rfft2(images[index]) * transfer, s=(n, n)).clamp_min(0)
    return images.index_copy(0, index, out)


def diffuse_background(
    scenes: list[Scene], bases_px: list[np.ndarray], n: int, generator: torch.Generator | None, device: torch.device | str
) -> torch.Tensor:
    """Expected background (B, n, n) as a fraction of the dose, with a sum of `background_fraction`."""
    dy, dx = offsets(scenes, n, device)
    distance2 = dx * dx + dy * dy
    width2 = column([s.halo[1] ** 2 for s in scenes], device)
    mix = column([s.halo[2] for s in scenes], device)
    gauss = torch.exp(-0.5 * distance2 / width2)
    power = (1 + distance2 / width2) ** -1.5
    halo = mix * gauss / gauss.sum((1, 2), keepdim=True) + (1 - mix) * power / power.sum((1, 2), keepdim=True)
    fraction = column([s.halo[0] for s in scenes], device)
    out = fraction * halo + column([s.flat_fraction / (n * n) for s in scenes], device)
    for i, scene in enumerate(scenes):
        diffuse = scene.diffuse
        for part, radius, width in diffuse.rings:
            ring = torch.exp(-0.5 * ((distance2[i].sqrt() - radius) / width) ** 2)
            out[i] += part * ring / ring.sum().clamp_min(1e-6)
        if diffuse.kikuchi[0]:
            out[i] *= _kikuchi(diffuse.kikuchi, bases_px[i], dy[i], dx[i])
        if diffuse.texture[0]:
            out[i] *= _texture(diffuse.texture, n, generator, device)
    return out


def background_fraction(scene: Scene) -> float:
    """Part of the dose in the background, before bands and texture."""
    return min(0.95, scene.halo[0] + scene.flat_fraction + sum(part for part, _, _ in scene.diffuse.rings))


def _kikuchi(kikuchi: tuple[float, float, float, float], basis: np.ndarray, dy: torch.Tensor, dx: torch.Tensor) -> torch.Tensor:
    """Bands of the shortest lattice vectors: brighter inside by `strength`, darker along one edge."""
    strength, row, col, edge = kikuchi
    out = torch.ones(torch.broadcast_shapes(dy.shape, dx.shape), device=dy.device)
    vectors = [h * basis[0] + k * basis[1] for h, k in ((1, 0), (0, 1), (1, 1), (1, -1), (2, 0), (0, 2))]
    shown = [g for g in sorted(vectors, key=np.linalg.norm) if np.linalg.norm(g) > 0]  # of a systematic row, one vector is none
    for order, g in enumerate(shown):
        length = float(np.linalg.norm(g))
        across = ((dy - row) * float(g[0]) + (dx - col) * float(g[1])) / length
        inside = torch.sigmoid((0.5 * length - across.abs()) / edge)
        deficit = torch.exp(-0.5 * ((across - 0.5 * length) / edge) ** 2)
        out = out * (1 + strength / (1 + 0.5 * order) * (inside - 0.5 * deficit))
    return out.clamp_min(0.05)


def _texture(
    texture: tuple[float, float], n: int, generator: torch.Generator | None, device: torch.device | str
) -> torch.Tensor:
    """exp(strength x smooth noise) of unit mean square."""
    strength, length = texture
    noise = torch.fft.rfft2(torch.randn((n, n), generator=generator, device=device))
    smooth = torch.fft.irfft2(noise * torch.exp(-2 * (math.pi * length * _frequency(n, device)) ** 2), s=(n, n))
    return torch.exp(strength * smooth / smooth.std().clamp_min(1e-9))


def open_pixels(scenes: list[Scene], n: int, device: torch.device | str) -> torch.Tensor:
    """What beam stop, margins and gaps between modules let through, (B, n, n), 0..1."""
    out = torch.ones((len(scenes), n, n), device=device)
    for i, scene in enumerate(scenes):
        if scene.stop.shape:
            dy, dx = offsets([scene], n, device)
            out[i] = _stop(scene.stop, scene.stop.radii * scene.radius_px, dy[0], dx[0])
        out[i][dead_pixels(scene, n, device)] = 0
    return out


def dead_pixels(scene: Scene, n: int, device: torch.device | str) -> torch.Tensor:
    """(n, n) bool: margins and gaps between modules, where there is no detector. Under a beam stop there is one."""
    out = torch.zeros((n, n), dtype=torch.bool, device=device)
    top, bottom, left, right = scene.window_px
    out[:top], out[n - bottom :], out[:, :left], out[:, n - right :] = True, True, True, True
    for axis, first, width in scene.camera.gaps:
        out.narrow(axis, first, min(width, n - first)).fill_(True)
    return out


def _stop(stop: Stop, reach: float, dy: torch.Tensor, dx: torch.Tensor) -> torch.Tensor:
    """Transmission of a beam stop whose end lies on the direct beam and whose arm goes out along its angle."""
    s, c = math.sin(stop.angle_rad), math.cos(stop.angle_rad)
    along, across = (dy * s + dx * c), (dx * s - dy * c).abs()
    arm = (across < 0.6 * reach) & (along > 0)
    if stop.shape == "disk":
        hidden = (along**2 + across**2 < reach**2) | arm
    elif stop.shape == "bar":
        hidden = (across < reach) & (along > -reach)
    elif stop.shape == "wedge":
        hidden = (along > -1.5 * reach) & (across < 0.6 * (along + 1.5 * reach))
    else:
        hidden = ((along.abs() < reach) & (across < reach)) | arm
    return torch.where(hidden, stop.transmission, 1.0)
