"""Evaluation of exported disk networks on held-out crystals: proposer -> refiner -> score -> lattice fit.

    python -m napari_emdl.training.diffraction.evaluate LIBRARY.h5 FCUNET_FOLDER REFINER_FOLDER [--out metrics.json]

Runs the ONNX graphs as the program does, on patterns that are rendered here. `unseen_case` simulates materials that no
training sees.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from napari_emdl.base.physics import semiangle_invA, wavelength_A
from napari_emdl.diffraction.find.spectrum import probe_spectrum
from napari_emdl.training.diffraction.crystals import Crystal, build_crystal
from napari_emdl.training.diffraction.library import Run, read_library
from napari_emdl.training.diffraction.multislice import project, simulate
from napari_emdl.training.diffraction.render import Pattern, render
from napari_emdl.training.diffraction.scene import RenderConfig, Scene
from napari_emdl.training.diffraction.strainfit import fit_basis, strain_error
from napari_emdl.training.diffraction.validation import validation_patterns

TOLERANCE_PX = 2.0
THICKNESS_BINS_NM = ((2, 10), (10, 25), (25, 50))
DOSE_BINS = ((1e3, 3e4), (3e4, 3e5), (3e5, 1e8))
MISTILT_BINS_MRAD = ((0, 3), (3, 8), (8, 15))


@dataclass
class Networks:
    """Inference sessions of a proposer and a refiner."""

    proposer: Any
    refiner: Any

    @classmethod
    def load(cls, proposer: str | Path, refiner: str | Path, threads: int = 1) -> Networks:
        """Open two model folders with onnxruntime on the CPU."""
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        made = [
            ort.InferenceSession(str(Path(p) / "model.onnx"), options, providers=["CPUExecutionProvider"])
            for p in (proposer, refiner)
        ]
        return cls(*made)

    def candidates(self, pattern: Pattern, floor: float = 0.1) -> np.ndarray:
        """Candidates of the proposer, (n, 4), above a floor."""
        re, im = probe_spectrum(pattern.probe.numpy())
        found = self.proposer.run(["candidates"], {"pattern": pattern.counts.numpy()[None], "probe_re": re, "probe_im": im})[0][
            0
        ]
        return found[found[:, 2] >= floor]

    def measure(self, pattern: Pattern, position_px: np.ndarray, passes: int) -> np.ndarray:
        """Refined disks, (n, 5): row, col, sigma_px, score, intensity; (n, 8) with the covariance of newer networks."""
        position = np.asarray(position_px, np.float32).reshape(-1, 2)
        out = np.empty((0, 5), np.float32)
        feed = {"pattern": pattern.counts.numpy()[None], "radius_px": np.array(pattern.radius_px, np.float32)}
        known = {item.name for item in self.refiner.get_inputs()}
        if "probe" in known:
            feed["probe"] = pattern.probe.numpy()
        if "beam_px" in known:
            feed["beam_px"] = np.asarray(pattern.origin_px, np.float32)[None]
        feed["pattern_index"] = np.zeros(len(position), np.int64)
        for _ in range(passes if len(position) else 0):
            out = np.concatenate(self.refiner.run(None, feed | {"position_px": position}), axis=1)
            position = out[:, :2]
        return out

    def find(self, pattern: Pattern, passes: int = 2, min_score: float = 0.5) -> np.ndarray:
        """Disks of one pattern, one a place, not cut by the detector's border."""
        start = self.candidates(pattern)[:, :2]
        out = self.measure(pattern, start, passes)
        return select(out, pattern.radius_px, pattern.counts.shape[-1], min_score)


def select(measured: np.ndarray, radius_px: float, size_px: int, min_score: float) -> np.ndarray:
    """Disks above a score whose centres lie a radius inside; of several on one place the surest."""
    r = radius_px
    inside = ((measured[:, :2] > r) & (measured[:, :2] < size_px - 1 - r)).all(1)
    rest = measured[inside & (measured[:, 3] >= min_score)]
    rest = rest[np.argsort(-rest[:, 3] / np.clip(rest[:, 2], 0.02, None))]
    keep: list[int] = []
    for i in range(len(rest)):
        if not keep or np.linalg.norm(rest[keep, :2] - rest[i, :2], axis=1).min() > 0.5 * r:
            keep.append(i)
    return rest[keep]


@dataclass
class Scored:
    """Result of one pattern: strain error and truth (None where no fit), hits, peaks, visible disks and those found, errors."""

    error: np.ndarray | None
    hits: int
    peaks: int
    seen: int
    visible: int
    distance_px: np.ndarray
    meta: dict


def score_pattern(pattern: Pattern, found: np.ndarray) -> Scored:
    """Match found disks (n, >= 3) to the truth, one to one, and fit the lattice."""
    r, size = pattern.radius_px, pattern.counts.shape[-1]
    centre = pattern.centre_px.numpy().astype(float)
    inside = ((centre > r) & (centre < size - 1 - r)).all(1)
    sites, hk = centre[inside], pattern.hk[inside]
    visible = pattern.snr.numpy()[inside] > 6.0
    if not len(found) or not len(sites):
        return Scored(None, 0, len(found), 0, int(visible.sum()), np.empty(0), pattern.meta)
    gap = np.linalg.norm(found[:, None, :2] - sites[None], axis=-1)
    nearest = gap.argmin(1)
    distance = gap[np.arange(len(found)), nearest]
    first = np.array([distance[i] <= distance[nearest == nearest[i]].min() for i in range(len(found))])
    hit = first & (distance < TOLERANCE_PX)
    seen = np.isin(np.arange(len(sites)), nearest[hit])
    spacing = np.linalg.norm(pattern.basis_px, axis=1).min()
    use = first & (distance < 0.3 * spacing)
    ellipse = found[use, 5:8].astype(float) if found.shape[1] >= 8 else None
    fitted = fit_basis(hk[nearest[use]], found[use, :2].astype(float), found[use, 2].astype(float), ellipse=ellipse)
    error = None if fitted is None else strain_error(pattern.basis_px, fitted)
    return Scored(
        error, int(hit.sum()), len(found), int((seen & visible).sum()), int(visible.sum()), distance[hit], pattern.meta
    )


def summary(scored: list[Scored]) -> dict[str, float]:
    """Pooled figures of some patterns."""
    errors = np.array([s.error for s in scored if s.error is not None]).reshape(-1, 3)
    distance = np.concatenate([s.distance_px for s in scored])
    rms = np.sqrt(np.square(errors).mean(1)) if len(errors) else np.array([np.nan])
    values = {
        "strain_rmse_pct": 100 * np.sqrt(np.square(errors).mean()) if len(errors) else np.nan,
        "strain_rmse_best95_pct": 100 * np.sqrt(np.mean(np.sort(rms)[: max(1, int(0.95 * len(rms)))] ** 2)),
        "strain_median_abs_pct": 100 * np.median(np.abs(errors)) if len(errors) else np.nan,
        "disk_rmse_px": np.sqrt(np.mean(np.square(distance))) if len(distance) else np.nan,
        "precision": sum(s.hits for s in scored) / max(1, sum(s.peaks for s in scored)),
        "recall": sum(s.seen for s in scored) / max(1, sum(s.visible for s in scored)),
    }
    return {k: round(float(v), 4) for k, v in values.items()} | {
        "unfitted": sum(s.error is None for s in scored),
        "n": len(scored),
    }


def by_condition(scored: list[Scored]) -> dict[str, dict[str, dict[str, float]]]:
    """Figures by thickness, dose and mistilt."""
    out: dict[str, dict[str, dict[str, float]]] = {}
    for key, bins in (("thickness_nm", THICKNESS_BINS_NM), ("dose_e", DOSE_BINS), ("tilt_mrad", MISTILT_BINS_MRAD)):
        parts = {f"{a:g}-{b:g}": [s for s in scored if a <= s.meta[key] < b] for a, b in bins}
        out[key] = {name: summary(part) for name, part in parts.items() if part}
    return out


def evaluate(networks: Networks, patterns: list[Pattern], passes: int = 2, min_score: float = 0.5) -> list[Scored]:
    """Find and score the disks of some patterns."""
    return [score_pattern(p, networks.find(p, passes, min_score)) for p in patterns]


def unseen_crystals() -> dict[str, Crystal]:
    """Materials excluded from training, for tests of generalisation alone."""
    make = build_crystal
    return {
        "SrTiO3": make(
            "SrTiO3",
            "P",
            (3.905,) * 3,
            90,
            {"Sr": [(0, 0, 0)], "Ti": [(0.5,) * 3], "O": [(0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5)]},
        ),
        "GaAs": make("GaAs", "F", (5.653,) * 3, 90, {"Ga": [(0, 0, 0)], "As": [(0.25,) * 3]}),
        "Cu": make("Cu", "F", (3.615,) * 3, 90, {"Cu": [(0, 0, 0)]}),
    }


#: Material, zone axis, energy in keV, semiangle in mrad.
UNSEEN = (
    ("SrTiO3", (0, 0, 1), 200.0, 2.0),
    ("GaAs", (0, 0, 1), 200.0, 2.0),
    ("Cu", (1, 1, 0), 200.0, 2.5),
    ("GaAs", (1, 1, 0), 300.0, 3.2),
)


def unseen_case(
    material: str,
    zone: tuple[int, int, int],
    energy_keV: float,
    semiangle_mrad: float,
    count: int = 60,
    dose_e: float = 1e5,
    seed: int = 3,
) -> list[Pattern]:
    """Patterns of an excluded material: 5-50 nm, up to 12 mrad mistilt, 3 % strain, 1 degree rotation, 0.014 1/A a pixel."""
    rng = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    cell = project(unseen_crystals()[material], zone)
    semiangle = semiangle_invA(semiangle_mrad, energy_keV)
    patterns: list[Pattern] = []
    while len(patterns) < count:
        tilt = rng.normal(0, 4e-3, 2).clip(-8e-3, 8e-3) / wavelength_A(energy_keV)
        thickness = np.sort(rng.uniform(50, 500, 4))
        tilt_invA = (float(tilt[0]), float(tilt[1]))
        beams = simulate(cell, energy_keV, 1.06 * semiangle, thickness, tilt_invA=tilt_invA, nk=13, absorption=0.03)
        meta = {"energy_keV": energy_keV, "k_max_invA": beams.k_max_invA, "tilt_invA": list(tilt_invA), "crystal": material}
        meta |= {
            "thickness_A": beams.thickness_A.tolist(),
            "tilt_mrad": float(np.hypot(*tilt) * wavelength_A(energy_keV) * 1e3),
        }
        run = Run(torch.view_as_real(beams.amplitude).numpy(), beams.g_invA.astype(np.float32), beams.hk, beams.v_V, meta)
        for index in range(4):
            patterns.append(render(run, _plain_scene(index, semiangle, dose_e, rng), RenderConfig(), generator))
    return patterns[:count]


def _plain_scene(index: int, semiangle: float, dose_e: float, rng: np.random.Generator) -> Scene:
    """A well behaved microscope with a little halo."""
    e = rng.uniform(-0.03, 0.03, 3)
    return Scene(
        thickness_index=index,
        semiangle_invA=semiangle,
        sampling_invA=0.014,
        rotation_rad=float(np.deg2rad(rng.uniform(-1, 1))),
        ellipse=np.eye(2),
        deformation=np.array([[1 + e[0], e[2]], [e[2], 1 + e[1]]]),
        origin_px=np.array([128.0, 128.0]),
        edge_px=1e-3,
        defocus_A=0.0,
        probe_shift_A=np.zeros(2),
        ripple=np.zeros(5),
        coherence=1.0,
        dose_e=dose_e,
        probe_dose_e=1e6,
        halo=(0.12, 30.0, 0.7),
        flat_fraction=0.02,
        plasmon=(0.0, 1.0),
        psf_sigma_px=0.0,
        gain_ripple=0.0,
        readout_e=0.0,
        hot=0,
        dead=0,
    )


def main() -> None:
    """Command line of this module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library")
    parser.add_argument("fcunet")
    parser.add_argument("refiner")
    parser.add_argument("--patterns", type=int, default=200)
    parser.add_argument("--unseen", type=int, default=60, help="patterns a material excluded from training")
    parser.add_argument("--passes", type=int, default=2)
    parser.add_argument("--out")
    args = parser.parse_args()
    torch.set_num_threads(1)
    networks = Networks.load(args.fcunet, args.refiner)
    runs = read_library([args.library], validation=True)
    scored = evaluate(networks, validation_patterns(runs, RenderConfig(), args.patterns, seed=4242), args.passes)
    result: dict[str, Any] = {
        "held_out_crystals": summary(scored),
        "by_condition": by_condition(scored),
        "unseen_materials": {},
    }
    for material, zone, energy, semiangle in UNSEEN if args.unseen else ():
        name = f"{material} [{''.join(map(str, zone))}] {energy:g} kV {semiangle:g} mrad"
        patterns = unseen_case(material, zone, energy, semiangle, args.unseen)
        result["unseen_materials"][name] = summary(evaluate(networks, patterns, args.passes))
    text = json.dumps(result, indent=1)
    if args.out:
        Path(args.out).write_text(text, "utf-8")
    print(text)


if __name__ == "__main__":
    main()
