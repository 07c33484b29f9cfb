"""Crops around disks, resampled so that every disk has the same radius; the same code runs in training and in the ONNX graph.

Each canonical pixel is the mean of the pattern over a box as wide as the canonical pixel, and never narrower than one detector
pixel: for small disks that is bilinear interpolation, for large ones area averaging. Parts of a box outside the detector do
not count.
"""

from __future__ import annotations

import torch

#: Side of a crop of the refiner, and the radius of the disk in it; smaller crops show the same field, coarser.
CANONICAL_RADIUS_PX = 7.0
CROP_PX = 32


def radius_in(crop_px: int) -> float:
    """Radius of the disk in crops of this side, in their own pixels."""
    return CANONICAL_RADIUS_PX * crop_px / CROP_PX


def _box_weights(position: torch.Tensor, start: torch.Tensor, length: torch.Tensor, width: torch.Tensor, size: torch.Tensor):
    """Weights (M, C, L) of pixels from `start` on in boxes around `position` (M, C); 0 outside the detector.

    `width` is (1, 1, 1) or (M, 1, 1).
    """
    pixel = start[:, None] + torch.arange(length, device=position.device)[None, :]  # type: ignore[call-overload]
    inside = ((pixel >= 0) & (pixel <= size - 1)).to(position.dtype)
    centre = pixel[:, None, :].to(position.dtype)
    upper = torch.minimum(position[:, :, None] + 0.5 * width, centre + 0.5)
    lower = torch.maximum(position[:, :, None] - 0.5 * width, centre - 0.5)
    return (upper - lower).clamp(min=0) / width * inside[:, None, :], pixel.clamp(min=0).minimum(size - 1)


def canonical_crops(
    pattern: torch.Tensor,
    index: torch.Tensor,
    position_px: torch.Tensor,
    radius_px: torch.Tensor,
    crop_px: int = CROP_PX,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Resample crops around proposals.

    Parameters
    ----------
    pattern
        Counts, (B, H, W).
    index
        Pattern of each proposal, int64 (M,).
    position_px
        (row, col) of each proposal, (M, 2).
    radius_px
        Disk radius in pixels, scalar tensor or one for each proposal (M,).
    crop_px
        Side C of the crops.

    Returns
    -------
    crop, valid
        (M, C, C) mean counts per detector pixel, and the part of each canonical pixel that lies on the detector.
    """
    # As tensors, so that a traced graph keeps the detector's size dynamic.
    shape = torch._shape_as_tensor(pattern)
    height, width = shape[1], shape[2]
    scale = radius_px.reshape(-1, 1) / radius_in(crop_px)
    box = scale.clamp(min=1.0)
    offset = (torch.arange(crop_px, device=pattern.device, dtype=position_px.dtype) - (crop_px - 1) / 2)[None] * scale
    reach = (crop_px / 2) * scale + 0.5 * box + 1.0
    length = (2 * reach.max()).ceil().to(torch.int64) + 2
    start = (position_px - reach).floor().to(torch.int64)
    box = box[:, :, None]
    rows, row_pixel = _box_weights(position_px[:, :1] + offset, start[:, 0], length, box, height)
    cols, col_pixel = _box_weights(position_px[:, 1:] + offset, start[:, 1], length, box, width)
    flat = (index[:, None, None] * height + row_pixel[:, :, None]) * width + col_pixel[:, None, :]
    window = pattern.reshape(-1)[flat]
    valid = rows.sum(2)[:, :, None] * cols.sum(2)[:, None, :]
    crop = torch.matmul(torch.matmul(rows, window), cols.transpose(1, 2))
    return crop / valid.clamp(min=0.05), valid
