"""From exit waves to counts: microscope, detector and noise, batched in torch. Nothing is periodic but the wave."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch

from napari_emdl.base.physics import wavelength_A

#: band over which the sign of the phase transfer defines bright and dark contrast, 1/A
CONTRAST_BAND_INVA = (0.25, 0.75)


@dataclass
class Microscope:
    """Imaging conditions of a batch; every field is a float tensor (batch,).

    Aberrations follow chi = 2 pi / lambda (C10 a^2/2 + C12 a^2/2 cos 2(phi - phi12) + (C21 cos(phi - phi21) + C23 cos
    3(phi - phi23)) a^3/3
    + Cs a^4/4) with positive C10 for overfocus, and the wave is multiplied by exp(-i chi). `focal_spread_A` and
    `angular_spread_mrad` are 1/e widths.
    """

    energy_keV: torch.Tensor
    C10_A: torch.Tensor
    Cs_A: torch.Tensor
    C12_A: torch.Tensor
    phi12_rad: torch.Tensor
    C21_A: torch.Tensor
    phi21_rad: torch.Tensor
    C23_A: torch.Tensor
    phi23_rad: torch.Tensor
    focal_spread_A: torch.Tensor
    angular_spread_mrad: torch.Tensor

    @classmethod
    def single(cls, **values: float) -> Microscope:
        """A batch of one; what is not given is zero."""
        return cls(**{f.name: torch.tensor([float(values.get(f.name, 0.0))]) for f in fields(cls)})

    def to(self, device: str | torch.device) -> Microscope:
        """The same conditions on another device."""
        return Microscope(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def pick(self, index: torch.Tensor) -> Microscope:
        """The conditions of some members of the batch."""
        return Microscope(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def with_defocus(self, shift_A: torch.Tensor | float) -> Microscope:
        """The same microscope with C10 changed by `shift_A`."""
        return Microscope(**{f.name: getattr(self, f.name) + (shift_A if f.name == "C10_A" else 0) for f in fields(self)})

    @property
    def wavelength_A(self) -> torch.Tensor:
        """Electron wavelengths (batch,)."""
        return torch.tensor(
            [wavelength_A(float(e)) for e in self.energy_keV], dtype=torch.float32, device=self.energy_keV.device
        )


def phase_and_envelope(m: Microscope, kr: torch.Tensor, kc: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """chi (rad) and the coherence envelope at spatial frequencies kr, kc (1/A, broadcast against (batch, 1, 1))."""

    def b(x: torch.Tensor) -> torch.Tensor:
        return x[:, None, None]

    lam = b(m.wavelength_A)
    ar, ac = lam * kr, lam * kc
    a2 = ar**2 + ac**2
    c2, s2 = ar**2 - ac**2, 2 * ar * ac  # a^2 cos 2 phi, a^2 sin 2 phi
    c3, s3 = ar * (ar**2 - 3 * ac**2), ac * (3 * ar**2 - ac**2)
    p12, q12 = b(m.C12_A * torch.cos(2 * m.phi12_rad)), b(m.C12_A * torch.sin(2 * m.phi12_rad))
    p21, q21 = b(m.C21_A * torch.cos(m.phi21_rad)), b(m.C21_A * torch.sin(m.phi21_rad))
    p23, q23 = b(m.C23_A * torch.cos(3 * m.phi23_rad)), b(m.C23_A * torch.sin(3 * m.phi23_rad))
    c10, cs = b(m.C10_A), b(m.Cs_A)
    path = (
        0.5 * (c10 * a2 + p12 * c2 + q12 * s2) + a2 * (p21 * ar + q21 * ac) / 3 + (p23 * c3 + q23 * s3) / 3 + 0.25 * cs * a2**2
    )
    scale = 2 * np.pi / lam
    gr = (
        c10 * ar
        + p12 * ar
        + q12 * ac
        + (p21 * (3 * ar**2 + ac**2) + q21 * 2 * ar * ac) / 3
        + p23 * (ar**2 - ac**2)
        + q23 * 2 * ar * ac
        + cs * a2 * ar
    )
    gc = (
        c10 * ac
        - p12 * ac
        + q12 * ar
        + (p21 * 2 * ar * ac + q21 * (3 * ac**2 + ar**2)) / 3
        - p23 * 2 * ar * ac
        + q23 * (ar**2 - ac**2)
        + cs * a2 * ac
    )
    temporal = (0.5 * np.pi / lam * b(m.focal_spread_A) * a2) ** 2
    spatial = (0.5e-3 * b(m.angular_spread_mrad) * scale) ** 2 * (gr**2 + gc**2)
    return scale * path, torch.exp(-temporal - spatial)


def contrast_transfer(m: Microscope, height_A: torch.Tensor) -> torch.Tensor:
    """Mean phase transfer sin(chi) x envelope over the band of lattice spacings, for atoms `height_A` above the exit face.

    Positive: atoms are white (bright contrast); negative: dark; near zero: no clear contrast. Shape (batch,).
    """
    r = torch.linspace(*CONTRAST_BAND_INVA, 12, device=m.C10_A.device)[:, None]
    t = torch.arange(16, device=r.device)[None] * (np.pi / 8)
    chi, envelope = phase_and_envelope(m.with_defocus(height_A), r * torch.cos(t), r * torch.sin(t))
    return (torch.sin(chi) * envelope).sum((1, 2)) / envelope.sum((1, 2)).clamp_min(1e-6)


def image_contrast(intensity: np.ndarray, column_px: np.ndarray, sampling_A: float, rng: np.random.Generator) -> float:
    """What a microscopist sees: how much brighter the columns of a noise-free image are than their surroundings within 1.4 A.

    In standard deviations of the surroundings: about +1 to +2 for clearly white and -1 to -2 for clearly dark columns.
    Thick crystals
    may reverse what the transfer function promises, so this, not the optics, tells bright from dark contrast. NaN
    without columns.
    """
    rows, cols = intensity.shape
    inside = np.all((column_px > 2) & (column_px < [rows - 3, cols - 3]), axis=1)
    p = column_px[inside]
    if not len(p):
        return float("nan")
    q = np.concatenate([p, (p[:, None] + rng.uniform(-1.4, 1.4, (len(p), 9, 2)) / sampling_A).reshape(-1, 2)])
    r, c = np.clip(np.round(q).astype(int).T, 0, [[rows - 1], [cols - 1]])
    value = intensity[r, c]
    at, around = value[: len(p)], value[len(p) :]
    return float((at.mean() - around.mean()) / max(around.std(), 1e-4))


def image_intensity(
    coefficients: torch.Tensor,
    m: Microscope,
    box_A: float,
    sampling_A: float | torch.Tensor,
    shape: tuple[int, int],
    origin_A: torch.Tensor | None = None,
) -> torch.Tensor:
    """Noise-free intensity (batch, rows, cols), mean about 1: exact at any sampling and origin by a discrete Fourier sum.

    Parameters
    ----------
    coefficients
        Complex (batch, K, K), centred, see `wave_to_coefficients`.
    sampling_A
        Pixel size, a number or (batch,).
    origin_A
        (batch, 2) position of pixel (0, 0) in the box; zero if not given.
    """
    n, size = coefficients.shape[0], coefficients.shape[-1]
    device = coefficients.device
    index = torch.arange(size, device=device, dtype=torch.float32) - size // 2
    k = index / box_A
    chi, envelope = phase_and_envelope(m, k[None, :, None], k[None, None, :])
    c = coefficients * torch.polar(envelope, -chi)
    s = torch.as_tensor(sampling_A, dtype=torch.float32, device=device).expand(n)
    o = torch.zeros((n, 2), device=device) if origin_A is None else origin_A

    def basis(axis: int) -> torch.Tensor:
        x = o[:, axis, None] + s[:, None] * torch.arange(shape[axis], device=device)
        phase = 2 * np.pi * x[:, :, None] * k
        return torch.polar(torch.ones_like(phase), phase)

    wave = basis(0) @ c @ basis(1).transpose(1, 2)
    return wave.real**2 + wave.imag**2


@dataclass
class Detector:
    """Detector and dose of a batch; every field is a float tensor (batch,).

    MTF(k) = (c0 - c1) / (1 + (k / 2 c2)^c3) + c1 with k in cycles a pixel. MTF^noise_power acts after the Poisson
    process and the rest of
    it before, so noise is coloured by that power: 0.5 as in the seed work, 1 for a sensor that blurs what it has counted.
    """

    dose_e_per_A2: torch.Tensor
    c0: torch.Tensor
    c1: torch.Tensor
    c2: torch.Tensor
    c3: torch.Tensor
    noise_power: torch.Tensor
    drift_row_px: torch.Tensor
    drift_col_px: torch.Tensor
    blur_px: torch.Tensor
    gain_ripple: torch.Tensor
    pixel_gain: torch.Tensor
    dead_share: torch.Tensor
    illumination: torch.Tensor

    @classmethod
    def ideal(cls, dose_e_per_A2: torch.Tensor) -> Detector:
        """A counting detector without blur, for the given doses (batch,)."""
        z = torch.zeros_like(dose_e_per_A2)
        return cls(dose_e_per_A2, z + 1, z + 1, z + 1, z + 2, z + 0.5, z, z, z, z, z, z, z)


def _smooth_field(shape: torch.Size, generator: torch.Generator | None, order: int, device: torch.device) -> torch.Tensor:
    """A random smooth field (batch, rows, cols) of unit variance: cosines up to `order` half waves a side."""
    weight = torch.randn((shape[0], order, order), generator=generator).to(device) * (2 / order)

    def basis(n: int) -> torch.Tensor:
        x = (torch.arange(n, device=device) + 0.5) * (np.pi / n)
        return torch.cos(x[:, None] * torch.arange(1, order + 1, device=device))

    return basis(shape[1]) @ weight @ basis(shape[2]).T


def _electrons(expected: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
    """Poisson numbers; images with more than six electrons a pixel on average take the rounded normal law, which is much
    faster."""
    many = expected.mean((1, 2)) > 6
    counts = torch.empty_like(expected)
    if bool(many.any()):
        x = expected[many]
        counts[many] = torch.round(x + torch.sqrt(x) * torch.randn(x.shape, generator=generator)).clamp_min(0)
    if not bool(many.all()):
        counts[~many] = torch.poisson(expected[~many], generator=generator)
    return counts


def record(
    intensity: torch.Tensor, sampling_A: float | torch.Tensor, d: Detector, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Counts (batch, rows, cols) for an intensity of mean 1.

    The random numbers come from the CPU generator, so a seed gives the same image on every device but for rounding.
    """
    device = intensity.device
    n, rows, cols = intensity.shape

    def b(x: torch.Tensor) -> torch.Tensor:
        return x.to(device)[:, None, None]

    fr = torch.fft.fftfreq(rows, device=device)[:, None]
    fc = torch.fft.rfftfreq(cols, device=device)[None]
    f = torch.sqrt(fr**2 + fc**2)[None]
    mtf = (b(d.c0) - b(d.c1)) / (1 + (f / (2 * b(d.c2))) ** b(d.c3)) + b(d.c1)
    after = mtf ** b(d.noise_power)
    before = mtf / after
    motion = torch.sinc(fr * b(d.drift_row_px) + fc * b(d.drift_col_px)) * torch.exp(-2 * (np.pi * b(d.blur_px) * f) ** 2)
    mean = torch.fft.irfft2(torch.fft.rfft2(intensity) * (before * motion), s=(rows, cols))
    field = 1 + b(d.illumination) * _smooth_field(intensity.shape, generator, 2, device)
    s = torch.as_tensor(sampling_A, dtype=torch.float32, device=device).expand(n)[:, None, None]
    expected = (mean * field).clamp_min(0) * b(d.dose_e_per_A2) * s**2
    counts = _electrons(expected.cpu(), generator).to(device)
    counts = torch.fft.irfft2(torch.fft.rfft2(counts) * after, s=(rows, cols))
    gain = 1 + b(d.gain_ripple) * _smooth_field(intensity.shape, generator, 8, device)
    if bool((d.pixel_gain > 0).any()):
        gain = gain + b(d.pixel_gain) * torch.randn(intensity.shape, generator=generator).to(device)
    counts = counts * gain
    if bool((d.dead_share > 0).any()):
        u = torch.rand(intensity.shape, generator=generator).to(device)
        high = counts.amax((1, 2), keepdim=True)
        counts = torch.where(
            u < b(d.dead_share) / 2, torch.zeros_like(counts), torch.where(u > 1 - b(d.dead_share) / 2, high, counts)
        )
    return counts
