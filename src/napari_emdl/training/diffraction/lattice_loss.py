"""The pattern's lattice by differentiable weighted least squares: what the errors of all its disks together do to the strain.

Errors that all disks of a pattern share (mirror-symmetric contrast near a zone axis makes opposite disks move apart together)
are small in each disk and do not average out in the strain; a loss on single disks hardly sees them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

#: Strain errors below this count no more: a hundredth of a per cent.
_FLOOR = 1e-4
#: Disks, weighted by visibility, that a lattice needs.
_LEAST_DISKS = 6.0
#: Smallest cell of a lattice in the plane.
_LEAST_CELL_PX2 = 1.0


@dataclass
class Lattices:
    """Truth of the patterns of a batch.

    Attributes
    ----------
    hk
        Indices of the disk each proposal belongs to, (B, P, 2).
    target_px, start_px
        Its centre, and where the proposal was measured from, (B, P, 2).
    weight
        0..1, how much of a disk is there, (B, P).
    basis_px
        True basis vectors as rows, (B, 2, 2).
    scale
        Detector pixels a canonical pixel, (B,).
    """

    hk: torch.Tensor
    target_px: torch.Tensor
    start_px: torch.Tensor
    weight: torch.Tensor
    basis_px: torch.Tensor
    scale: torch.Tensor

    def to(self, device: torch.device | str) -> Lattices:
        """Copy on a device."""
        return Lattices(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


def strain_errors(lattices: Lattices, offset: torch.Tensor, precision: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Errors of (e_rr, e_cc, e_rc) of the lattice fitted to measured disks, (B, 3), and which patterns have one (B,) bool.

    Parameters
    ----------
    offset, precision
        Measured offsets from `start_px` (B, P, 2) and their inverse covariance (B, P, 2, 2), in canonical pixels.
    """
    error_px = lattices.start_px + offset * lattices.scale[:, None, None] - lattices.target_px
    weight = lattices.weight[..., None, None] * precision / lattices.scale[:, None, None, None] ** 2
    total = lattices.weight.sum(1).clamp_min(1e-6)
    size = ((lattices.hk.square().sum(-1) * lattices.weight).sum(1) / total).sqrt().clamp_min(1.0)
    design = torch.cat([torch.ones_like(lattices.hk[..., :1]), lattices.hk / size[:, None, None]], -1)
    batch = len(design)
    normal = torch.einsum("bpi,bpj,bpac->biajc", design, design, weight).reshape(batch, 6, 6)
    right = torch.einsum("bpi,bpac,bpc->bia", design, weight, error_px).reshape(batch, 6)
    level = normal.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-6)[:, None, None]
    normal = normal / level + 1e-4 * torch.eye(6, device=normal.device)
    solved = torch.linalg.solve(normal, right / level[:, :, 0]).reshape(batch, 3, 2)
    basis_error = solved[:, 1:] / size[:, None, None]
    plane = torch.linalg.det(lattices.basis_px).abs() > _LEAST_CELL_PX2  # the reflections of a systematic row span none
    basis = torch.where(plane[:, None, None], lattices.basis_px, torch.eye(2, device=normal.device))
    change = -torch.linalg.solve(basis, basis_error)
    errors = torch.stack([change[:, 0, 0], change[:, 1, 1], 0.5 * (change[:, 0, 1] + change[:, 1, 0])], 1)
    spread = torch.linalg.eigvalsh(torch.einsum("bpi,bpj,bp->bij", design, design, lattices.weight).detach())[:, 0]
    return errors, plane & (total > _LEAST_DISKS) & (spread > 0.05 * total)


def strain_loss(lattices: Lattices, offset: torch.Tensor, precision: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Mean over the patterns of log(1 + (rms strain error / floor)^2) / 2, and the median error in per cent for the log.

    The logarithm makes a tenth less error worth the same in any pattern, as in the loss on disks: squares would leave all to
    the few patterns whose errors are large.
    """
    errors, fitted = strain_errors(lattices, offset, precision)
    square = errors.square().mean(1)
    relative = 0.5 * torch.log1p(square / _FLOOR**2)
    if not bool(fitted.any()):
        return 0.0 * relative.sum(), 0.0
    return relative[fitted].mean(), float(100 * square[fitted].detach().sqrt().median())
