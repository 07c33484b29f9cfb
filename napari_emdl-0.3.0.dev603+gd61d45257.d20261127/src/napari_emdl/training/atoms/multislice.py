"""Multislice exit waves in torch, batched, on CPU or CUDA (Kirkland, Advanced Computing in Electron Microscopy, ch. 6)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from napari_emdl.base.physics import interaction_constant_per_VA, wavelength_A
from napari_emdl.training.atoms.lattices import Structure
from napari_emdl.training.common.scattering import projected_potential_VA3

#: exit waves are kept as this many Fourier coefficients a side: +-1.6 1/A for a 44.8 A box
COEFFICIENTS = 144


class Multislice:
    """Exit waves of atoms in a periodic square box.

    Parameters
    ----------
    box_A
        Side of the box.
    grid
        Pixels a side; spatial frequencies above 2/3 of Nyquist are cut.
    slice_A
        Slice thickness; each slice holds the full projected potential of its atoms.
    """

    def __init__(self, box_A: float = 44.8, grid: int = 288, slice_A: float = 2.5, device: str | torch.device = "cpu") -> None:
        self.box_A, self.grid, self.slice_A = box_A, grid, slice_A
        self.device = torch.device(device)
        k = np.fft.fftfreq(grid, 1 / grid)
        self._limit = int(grid // 3)
        self._kr = torch.as_tensor(
            np.r_[np.arange(self._limit), np.arange(-self._limit + 1, 0)], dtype=torch.float32, device=self.device
        )
        self._kc = torch.arange(self._limit, dtype=torch.float32, device=self.device)
        self._g = np.hypot(self._kr.cpu().numpy()[:, None], self._kc.cpu().numpy()[None]) / box_A
        self._g2 = torch.as_tensor((k[:, None] ** 2 + k[None] ** 2) / box_A**2, dtype=torch.float64, device=self.device)
        self._mask = self._g2 < (self._limit / box_A) ** 2
        self._factor: dict[tuple[str, float], torch.Tensor] = {}

    def _form(self, symbol: str, u2_A2: float) -> torch.Tensor:
        key = (symbol, round(u2_A2, 5))
        if key not in self._factor:
            f = projected_potential_VA3(symbol, self._g, u2_A2) / self.box_A**2 * self.grid**2
            f[self._g >= self._limit / self.box_A] = 0
            self._factor[key] = torch.as_tensor(f, dtype=torch.float32, device=self.device)
        return self._factor[key]

    def _phases(self, xyz: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        step = -2 * np.pi / self.box_A
        r, c = step * xyz[:, :1] * self._kr, step * xyz[:, 1:2] * self._kc
        return torch.polar(torch.ones_like(r), r), torch.polar(torch.ones_like(c), c)

    def potential_VA(self, symbols: np.ndarray, xyz: torch.Tensor, u2_A2: float) -> torch.Tensor:
        """Projected potential (grid, grid) in V A of one slice, exact in Fourier space."""
        total = torch.zeros((len(self._kr), len(self._kc)), dtype=torch.complex64, device=self.device)
        for symbol in np.unique(symbols):
            row, col = self._phases(xyz[torch.as_tensor(symbols == symbol, device=self.device)])
            total += (row.T @ col) * self._form(str(symbol), u2_A2)
        full = torch.zeros((self.grid, self.grid // 2 + 1), dtype=torch.complex64, device=self.device)
        n = self._limit
        full[:n, :n] = total[:n]
        full[-(n - 1) :, :n] = total[n:]
        return torch.fft.irfft2(full, s=(self.grid, self.grid))

    def exit_waves(self, structures: Sequence[Structure], energy_keV: float, u_rms_A: float = 0.07) -> torch.Tensor:
        """Exit waves of a batch at one beam energy.

        The last slice of every structure is the exit face: shorter ones get vacuum before, which changes nothing.

        Returns
        -------
        complex tensor (batch, grid, grid), real space, mean intensity 1.
        """
        sigma = interaction_constant_per_VA(energy_keV)
        arg = -np.pi * wavelength_A(energy_keV) * self.slice_A * self._g2
        propagator = torch.polar(self._mask.double(), arg).to(torch.complex64)
        slices = [max(1, int(np.ceil((s.xyz_A[:, 2].max() + 1e-6) / self.slice_A))) if len(s.xyz_A) else 1 for s in structures]
        depth = max(slices)
        psi = torch.ones((len(structures), self.grid, self.grid), dtype=torch.complex64, device=self.device)
        prepared = []
        for s, n in zip(structures, slices, strict=True):
            index = np.minimum((s.xyz_A[:, 2] / self.slice_A).astype(int), n - 1) + depth - n
            prepared.append((np.asarray(s.symbols), torch.as_tensor(s.xyz_A, dtype=torch.float32, device=self.device), index))
        for i in range(depth):
            for b, (symbols, xyz, index) in enumerate(prepared):
                here = index == i
                if here.any():
                    v = self.potential_VA(symbols[here], xyz[torch.as_tensor(here, device=self.device)], u_rms_A**2)
                    psi[b] *= torch.polar(torch.ones_like(v), sigma * v)
            psi = torch.fft.ifft2(torch.fft.fft2(psi) * propagator)
        return psi


def wave_to_coefficients(psi: torch.Tensor, coefficients: int = COEFFICIENTS) -> torch.Tensor:
    """Centred Fourier coefficients (batch, coefficients, coefficients) of waves (batch, grid, grid), with psi = sum c
    exp(2 pi i k.x / box)."""
    spectrum = torch.fft.fftshift(torch.fft.fft2(psi, norm="forward"), dim=(-2, -1))
    low = psi.shape[-1] // 2 - coefficients // 2
    return spectrum[..., low : low + coefficients, low : low + coefficients]
