"""From maps to candidates, in torch operations that ONNX knows: local maxima, the best K, sub-pixel positions."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from napari_emdl.training.atoms.conditions import NUMERIC
from napari_emdl.training.atoms.contrast import pooled_features
from napari_emdl.training.atoms.network import STRIDE, ColumnNet

#: columns of the `candidates` output
FIELDS = ("row", "col", "score", "sigma_px", "species", "logit")
#: candidates a tile; unused ones have score 0 and logit -30
CANDIDATES = 12288
#: side of the window, map pixels, whose maximum a candidate must be (+-0.5 A at 0.125 A a pixel)
WINDOW = 5
#: side of the window over which a candidate's probability is summed, and width of the Gaussian that finds its centre,
#: map pixels
SUM_WINDOW, SMOOTH_PX = 5, 1.2
EMPTY_LOGIT = -30.0
_SAMPLING = 2 + 2 * [name for name, _ in NUMERIC].index("sampling_A")
_SAMPLING_SCALE = dict(NUMERIC)["sampling_A"]


def _expected_sum(conditions: torch.Tensor, label_sigma_A: float) -> torch.Tensor:
    """Sum of a column's label over the window, (batch, 1, 1, 1), at the pixel size that the conditions tell (0.1 A if
    they don't)."""
    known, value = conditions[:, _SAMPLING], conditions[:, _SAMPLING + 1]
    pixel_A = _SAMPLING_SCALE * (known * value + (1 - known)).clamp(0.3, 3.0) * STRIDE
    inside = torch.erf(0.5 * SUM_WINDOW * pixel_A / (label_sigma_A * math.sqrt(2)))
    return (2 * math.pi * (label_sigma_A / pixel_A * inside) ** 2)[:, None, None, None]


def candidates(
    out: dict[str, torch.Tensor], conditions: torch.Tensor, label_sigma_A: float = 0.38, count: int = CANDIDATES
) -> torch.Tensor:
    """Candidates (batch, count, 6), best first; see `FIELDS`.

    Where the position is uncertain, the map is low and wide: so a candidate is a maximum of the smoothed map, and its
    score is the map's
    sum around it over that of a certain column, which estimates the probability of a column there. `row` and `col` are
    in image pixels
    with pixel centres at integers.
    """
    each = torch.sigmoid(out["logit"])
    together = each.sum(1, keepdim=True).clamp(max=1.0)
    reach = WINDOW // 2
    bell = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=each.device, dtype=each.dtype) / SMOOTH_PX) ** 2)
    bell = bell / bell.sum()
    smooth = F.conv2d(
        F.conv2d(together, bell[None, None, :, None], padding=(reach, 0)), bell[None, None, None, :], padding=(0, reach)
    )
    scale = SUM_WINDOW**2 / _expected_sum(conditions, label_sigma_A)
    mass = F.avg_pool2d(each, SUM_WINDOW, 1, SUM_WINDOW // 2) * scale
    score = mass.sum(1, keepdim=True).clamp(1e-6, 1 - 1e-6)
    species = mass.argmax(1, keepdim=True).to(each.dtype)
    is_peak = smooth >= F.max_pool2d(smooth, WINDOW, stride=1, padding=reach)
    logit_map = torch.log(score) - torch.log1p(-score)
    peak = torch.where(is_peak, logit_map, torch.full_like(logit_map, EMPTY_LOGIT))
    ones = torch.ones_like(score)
    row = STRIDE * (torch.cumsum(ones, 2) - 1) + (STRIDE - 1) / 2 + out["offset"][:, :1]
    col = STRIDE * (torch.cumsum(ones, 3) - 1) + (STRIDE - 1) / 2 + out["offset"][:, 1:]
    flat = F.pad(peak.flatten(1), (0, count), value=EMPTY_LOGIT)
    logit, index = torch.topk(flat, count, dim=1)
    values = F.pad(torch.cat([row, col, torch.exp(out["log_sigma"]), species], dim=1).flatten(2), (0, count))
    values = torch.gather(values, 2, index[:, None].expand(-1, 4, -1)).transpose(1, 2)
    used = (logit > EMPTY_LOGIT).to(each.dtype)[..., None]  # not so for the padding and for pixels that are no maxima
    values, best = values * used, torch.sigmoid(logit) * used[..., 0]
    return torch.cat([values[..., :2], best[..., None], values[..., 2:], logit[..., None]], dim=2)


class ExportedNet(nn.Module):
    """Network with peaks and the contrast probe behind it: image and conditions to candidates, logit, offset, sigma and
    contrast."""

    def __init__(self, net: nn.Module, label_sigma_A: float = 0.38) -> None:
        super().__init__()
        self.net = net
        self.label_sigma_A = label_sigma_A

    def forward(self, image: torch.Tensor, conditions: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Outputs in the order of the ONNX file."""
        if isinstance(self.net, ColumnNet):
            out, features = self.net.with_features(image, conditions)
            contrast = self.net.contrast_probe(pooled_features(out, features))
        else:
            out = self.net(image, conditions)
            contrast = torch.zeros_like(out["logit"][:, 0, 0, :1])
        found = candidates(out, conditions, self.label_sigma_A)
        return found, out["logit"], out["offset"], torch.exp(out["log_sigma"]), contrast
