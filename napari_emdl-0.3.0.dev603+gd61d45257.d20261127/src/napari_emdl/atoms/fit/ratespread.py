"""How uncertain the rates are because the emissions are not known exactly."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from napari_emdl.atoms.fit import hmm
from napari_emdl.atoms.fit.emissions import EvidenceData
from napari_emdl.atoms.fit.siteclasses import BLINKING, TRIAL_FRAMES, TRIAL_SITES, SiteModel


def rate_spread_of_emissions(model: SiteModel, evidence: NDArray[np.floating]) -> tuple[float, float]:
    """Standard deviations of logit p_off and logit p_on that come from not knowing the emissions exactly.

    From the observed information of rates, means and scales together (Laplace): what the inverse of the whole adds to the
    inverse of the rates' own block. A large movie is measured on a part and scaled.

    Parameters
    ----------
    model
        Fit.
    evidence
        (T, n), as it was fitted.
    """
    weight = model.class_probability[:, BLINKING]
    sites = np.sort(np.argsort(-weight, kind="stable")[:TRIAL_SITES])
    sites = sites[weight[sites] > 0.05]
    y = np.asarray(evidence, np.float64)[:TRIAL_FRAMES, sites]
    if not len(sites) or not np.isfinite(y).any():
        return 0.0, 0.0
    data, w, e = EvidenceData(y, np.zeros(y.shape, bool)), weight[sites], model.emissions
    best = np.r_[logit(model.p_off), logit(model.p_on), e.mean, np.log(e.scale)]
    step = np.r_[0.1, 0.1, 0.1 * e.scale, 0.1, 0.1]

    def total(x: NDArray[np.float64]) -> float:
        mean, scale = x[2:4, None] + e.offset[:, sites], np.exp(x[4:])
        none, one = (data.log_t(mean[k], float(scale[k]), e.dof) for k in (0, 1))
        chain = hmm.log_likelihood(one - none, float(expit(x[0])), float(expit(x[1])))
        return float(w @ (chain + none.sum(0)))

    size = len(best)
    information = np.empty((size, size))
    middle = total(best)
    moves = np.diag(step)
    for i in range(size):
        information[i, i] = (2 * middle - total(best + moves[i]) - total(best - moves[i])) / step[i] ** 2
        for j in range(i):
            cross = sum(a * b * total(best + a * moves[i] + b * moves[j]) for a in (1, -1) for b in (1, -1))
            information[i, j] = information[j, i] = -cross / (4 * step[i] * step[j])
    try:
        extra = np.diag(np.linalg.inv(information))[:2] - np.diag(np.linalg.inv(information[:2, :2]))
    except np.linalg.LinAlgError:
        return 0.0, 0.0
    known = np.isfinite(evidence)
    extra = extra * float(data.count @ w) / max(float(known.sum(0) @ weight), 1e-9)
    # where the curvature is not a minimum the rates are hardly known at all
    off, on = (float(np.sqrt(min(v, 1.0))) if v >= 0 else 1.0 for v in extra)
    return off, on
