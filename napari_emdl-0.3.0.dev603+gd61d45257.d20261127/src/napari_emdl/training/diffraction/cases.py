"""Test cases of materials that no training sees, as files that ``napari-emdl bench disks`` reads.

    python -m napari_emdl.training.diffraction.cases OUT_FOLDER [--count 60] [--seed 77]

Writes PREFIX.emd.h5 (datacube), PREFIX_probe.npy (vacuum probe) and PREFIX_truth.h5 for SrTiO3 [001], GaAs [001], Cu [110] and
GaAs [110] with touching and with overlapping disks. They are rendered by the simulator that the networks are trained with, so
they measure how networks do on other crystals, not on other microscopes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import h5py
import numpy as np
import torch

from napari_emdl.training.diffraction.evaluate import unseen_case
from napari_emdl.training.diffraction.render import Pattern

#: name -> material, zone axis, energy (keV), semiangle (mrad)
CASES = {
    "srtio3_001": ("SrTiO3", (0, 0, 1), 200.0, 2.0),
    "gaas_001": ("GaAs", (0, 0, 1), 200.0, 2.0),
    "cu_110": ("Cu", (1, 1, 0), 200.0, 2.5),
    "gaas_110_touching": ("GaAs", (1, 1, 0), 300.0, 3.0),
    "gaas_110_overlapping": ("GaAs", (1, 1, 0), 300.0, 3.2),
}


def write_case(prefix: Path, patterns: list[Pattern]) -> None:
    """Write patterns and their truth.

    Parameters
    ----------
    prefix
        Path without ending.
    patterns
        Patterns of one crystal, all with the direct beam on the same pixel.

    Raises
    ------
    ValueError
        When the origin differs from pattern to pattern.
    """
    origin = patterns[0].origin_px
    if not all(np.allclose(pattern.origin_px, origin) for pattern in patterns):
        raise ValueError("the patterns of a case share one origin")
    basis = np.array([pattern.basis_px for pattern in patterns])
    reference = basis.mean(axis=0)
    with h5py.File(f"{prefix}.emd.h5", "w") as file:
        counts = np.array([pattern.counts.numpy() for pattern in patterns]).round().astype(np.uint16)
        file.create_dataset("datacube/data", data=counts[None], compression="gzip", compression_opts=1)
    np.save(f"{prefix}_probe.npy", patterns[0].probe.numpy())
    with h5py.File(f"{prefix}_truth.h5", "w") as file:
        # a disk lies at origin + (h, k) @ g_px @ inv(F)
        file["truth/F"] = (np.linalg.inv(basis) @ reference)[None]
        file["truth/g_px"] = reference
        file["truth/origin_px"] = origin
        file["truth/thickness_nm"] = np.array([pattern.meta.get("thickness_nm", np.nan) for pattern in patterns])[None]


def main() -> None:
    """Write all cases into a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=60, help="patterns a case")
    parser.add_argument("--seed", type=int, default=77)
    args = parser.parse_args()
    torch.set_num_threads(1)  # the matrices are small: threads would only wait for each other
    args.folder.mkdir(parents=True, exist_ok=True)
    for name, (material, zone, energy_keV, semiangle_mrad) in CASES.items():
        write_case(args.folder / name, unseen_case(material, zone, energy_keV, semiangle_mrad, args.count, seed=args.seed))
        print(args.folder / name)


if __name__ == "__main__":
    main()
