"""From maps to candidates, in torch operations that ONNX knows: local maxima, the best K, sub-pixel positions."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from napari_emdl.training.hrtem.network import STRIDE

#: columns of the `candidates` output
FIELDS = ("row", "col", "score", "sigma_px", "species", "logit")
#: candidates a tile; unused ones have score 0 and logit -30
CANDIDATES = 4096
#: side of the window, map pixels, whose maximum a candidate must be (+-0.6 A at 0.1 A a pixel)
WINDOW = 7
EMPTY_LOGIT = -30.0


def candidates(out: dict[str, torch.Tensor], count: int = CANDIDATES) -> torch.Tensor:
    """Candidates (batch, count, 6), best first; see `FIELDS`.

    A candidate is a map pixel whose best species' logit is the largest in its window; `row` and `col` are in image
    pixels with pixel
    centres at integers.
    """
    best, species = out["logit"].max(dim=1, keepdim=True)
    pooled = F.max_pool2d(best, WINDOW, stride=1, padding=WINDOW // 2)
    peak = torch.where(best >= pooled, best, torch.full_like(best, EMPTY_LOGIT))
    ones = torch.ones_like(best)
    row = STRIDE * (torch.cumsum(ones, 2) - 1) + (STRIDE - 1) / 2 + out["offset"][:, :1]
    col = STRIDE * (torch.cumsum(ones, 3) - 1) + (STRIDE - 1) / 2 + out["offset"][:, 1:]
    flat = F.pad(peak.flatten(1), (0, count), value=EMPTY_LOGIT)
    logit, index = torch.topk(flat, count, dim=1)
    values = torch.cat([row, col, torch.exp(out["log_sigma"]), species.to(best.dtype)], dim=1).flatten(2)
    values = F.pad(values, (0, count))
    values = torch.gather(values, 2, index[:, None].expand(-1, 4, -1)).transpose(1, 2)
    used = (logit > EMPTY_LOGIT).to(best.dtype)[..., None]  # not so for the padding and for pixels that are no maxima
    values, score = values * used, torch.sigmoid(logit) * used[..., 0]
    return torch.cat([values[..., :2], score[..., None], values[..., 2:], logit[..., None]], dim=2)


class ExportedNet(nn.Module):
    """Network with peaks behind it: image and conditions to candidates, logit, offset and sigma."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(
        self, image: torch.Tensor, conditions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Outputs in the order of the ONNX file."""
        out = self.net(image, conditions)
        return candidates(out), out["logit"], out["offset"], torch.exp(out["log_sigma"])
