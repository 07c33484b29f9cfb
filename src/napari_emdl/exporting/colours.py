"""Colours that figures and the window share."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def disk_colours() -> NDArray[np.floating]:
    """(256, 4) RGBA for the scores of disks, from blue (low) over green to red (high), without the darkest ends."""
    import matplotlib

    return np.asarray(matplotlib.colormaps["turbo"](np.linspace(0.12, 0.92, 256)))
