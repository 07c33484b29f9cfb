"""Random images for training and tests: a new microscope, detector, crop and noise for every sample."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from napari_emdl.atoms.find.normalise import BLOCK_PX, SIGMA_A
from napari_emdl.training.atoms.conditions import encode
from napari_emdl.training.atoms.config import Imaging
from napari_emdl.training.atoms.imaging import Detector, Microscope, image_contrast, image_intensity, record
from napari_emdl.training.atoms.lattices import BOX_A, WEAK
from napari_emdl.training.atoms.waves import Waves

#: pixels rendered beyond the crop, so that the detector's Fourier filters do not wrap into it
MARGIN_PX = 8
#: below this `image_contrast` columns are neither bright nor dark, and the network is not told a contrast
CLEAR_CONTRAST = 0.35


def torch_normalise(x: torch.Tensor, sampling_A: torch.Tensor) -> torch.Tensor:
    """`atoms.normalise.local_normalise` for a batch (n, channels, rows, cols), sides multiples of 16, channels sharing
    one background."""
    rows, cols = x.shape[-2:]

    def operator(length: int) -> torch.Tensor:
        m = length // BLOCK_PX
        d = torch.arange(m, device=x.device, dtype=torch.float32)
        sigma = SIGMA_A / sampling_A / BLOCK_PX
        reach = torch.floor(3.0 * sigma + 0.5)
        gap = (d[:, None] - d[None]).abs()[None]
        g = torch.where(gap <= reach[:, None, None], torch.exp(-0.5 * (gap / sigma[:, None, None]) ** 2), torch.zeros_like(gap))
        g = g / g.sum(2, keepdim=True)
        p = ((torch.arange(length, device=x.device) - (BLOCK_PX - 1) / 2) / BLOCK_PX).clamp(0, m - 1)
        up = (1 - (p[:, None] - d[None]).abs()).clamp_min(0)
        return up @ g

    a, b = operator(rows), operator(cols).transpose(1, 2)

    def local(y: torch.Tensor) -> torch.Tensor:
        coarse = F.avg_pool2d(y, BLOCK_PX).mean(1)
        return (a @ coarse @ b)[:, None]

    y = x - local(x)
    return y / torch.sqrt(local(y**2).clamp_min(1e-12))


def _log_uniform(rng: np.random.Generator, low: float, high: float, n: int) -> np.ndarray:
    return np.exp(rng.uniform(np.log(low), np.log(high), n))


def draw_microscope(
    rng: np.random.Generator, energy_keV: np.ndarray, height_A: np.ndarray, imaging: Imaging
) -> tuple[Microscope, np.ndarray]:
    """Random imaging conditions, one for each wave.

    The default prior follows practice: five of six samples have |C10| of 0.4 to 1.2 (bright) or 0.1 to 1 (dark) times
    sqrt(|Cs| lambda),
    overfocus for bright and underfocus for dark contrast; the others are anywhere. Defocus refers to the specimen, so
    its height above the exit face is taken off.

    Returns
    -------
    microscope, defocus at the specimen in A.
    """
    n = len(energy_keV)
    lam = 12.398419843 / np.sqrt(energy_keV * (2 * 510.99895 + energy_keV))
    want = {"both": np.where(rng.random(n) < 0.58, 1, -1), "bright": np.ones(n), "dark": -np.ones(n)}[imaging.contrast]
    session = rng.random(n) < imaging.session_share
    if imaging.Cs_A is not None:
        cs = rng.uniform(*imaging.Cs_A, n)
    else:
        negative = session | (rng.random(n) < np.where(want > 0, 0.85, 0.6))
        cs = np.where(negative, -1.0, 1.0) * np.where(
            session, _log_uniform(rng, 3e4, 110e4, n), _log_uniform(rng, 0.5e4, 130e4, n)
        )
    # with |Cs| of a few um the defocus alone makes the contrast; with more it has to outweigh Cs (bright) or add to it (dark)
    scherzer = np.sqrt(np.abs(cs) * lam)
    white = rng.uniform(np.maximum(np.where(session, 55, 20), 0.5 * scherzer), np.maximum(130, 1.2 * scherzer))
    black = rng.uniform(np.full(n, 8.0), np.maximum(100, 0.9 * scherzer))
    c10 = np.where(want > 0, white, -black)
    if imaging.C10_A is not None:
        c10 = rng.uniform(*imaging.C10_A, n)
    elif imaging.Cs_A is None and imaging.contrast == "both":
        broad = (rng.random(n) < 0.1) & ~session
        c10 = np.where(broad, rng.uniform(-220, 220, n), c10)
        cs = np.where(broad, rng.uniform(-130e4, 130e4, n), cs)
    if imaging.C12_A is not None:
        c12 = rng.uniform(*imaging.C12_A, n)
    else:
        c12 = np.where(rng.random(n) < 0.45, rng.uniform(0, 15, n), rng.uniform(0, 50, n))
    fs = rng.uniform(*(imaging.focal_spread_A or (12.0, 42.0)), n)
    fs = np.where(session, rng.uniform(15, 32, n), fs)
    clean = rng.random(n) < 0.4

    def t(x: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(x, dtype=torch.float32)

    angles = rng.uniform(0, 2 * np.pi, (3, n))
    m = Microscope(
        energy_keV=t(energy_keV), C10_A=t(c10 - height_A), Cs_A=t(cs), C12_A=t(c12), phi12_rad=t(angles[0]),
        C21_A=t(np.where(clean, 0, rng.uniform(*imaging.C21_A, n))), phi21_rad=t(angles[1]),
        C23_A=t(np.where(clean, 0, rng.uniform(*imaging.C23_A, n))), phi23_rad=t(angles[2]),
        focal_spread_A=t(fs), angular_spread_mrad=t(np.where(rng.random(n) < 0.4, 0, rng.uniform(0, 0.4, n))),
    )  # fmt: skip
    return m, c10


def draw_detector(rng: np.random.Generator, n: int, imaging: Imaging) -> Detector:
    """Random dose, MTF, blur and flaws."""
    focus = rng.random(n) < imaging.dose_focus_share
    low, high = imaging.dose_e_per_A2
    flow, fhigh = (min(max(x, low), high) for x in imaging.dose_focus_e_per_A2)
    dose = np.where(focus, _log_uniform(rng, flow, fhigh, n), _log_uniform(rng, low, high, n))
    perfect = rng.random(n) < 0.25

    def t(x: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(x, dtype=torch.float32)

    drift = np.where(rng.random(n) < 0.5, 0, rng.uniform(0, 3, n))
    angle = rng.uniform(0, np.pi, n)
    return Detector(
        dose_e_per_A2=t(dose),
        c0=t(np.where(perfect, 1, rng.uniform(0.95, 1, n))), c1=t(np.where(perfect, 1, rng.uniform(0, 0.01, n))),
        c2=t(np.where(rng.random(n) < 0.6, rng.uniform(0.1, 0.3, n), rng.uniform(0.3, 0.6, n))), c3=t(rng.uniform(1.6, 3,
        n)), noise_power=t(rng.uniform(0.5, 1, n)),
        drift_row_px=t(drift * np.cos(angle)), drift_col_px=t(drift * np.sin(angle)),
        blur_px=t(np.where(rng.random(n) < 0.6, 0, rng.uniform(0, 2, n))),
        gain_ripple=t(np.where(rng.random(n) < 0.6, 0, rng.uniform(0, 0.04, n))),
        pixel_gain=t(np.full(n, 0.0 if rng.random() < 0.6 else rng.uniform(0, 0.03))),
        dead_share=t(np.full(n, 0.0 if rng.random() < 0.8 else rng.uniform(0, 5e-4))),
        illumination=t(np.where(rng.random(n) < 0.5, 0, rng.uniform(0, 0.08, n))),
    )  # fmt: skip


@dataclass
class Batch:
    """A batch: normalised `image` (n, channels, H, W), `conditions`, per image columns in pixels with their class and
    surface flag, and
    what it was drawn with."""

    image: torch.Tensor
    conditions: torch.Tensor
    columns: list[tuple[np.ndarray, np.ndarray]]
    surface: list[np.ndarray]
    sampling_A: np.ndarray
    contrast: np.ndarray
    dose_e_per_A2: np.ndarray
    #: pixel sizes of the camera, before images were rescaled, where they were
    camera_A: np.ndarray | None = None
    #: images of a mixed batch before they were normalised
    counts: torch.Tensor | None = None


def _told(rng: np.random.Generator, imaging: Imaging, contrast: int, zone: str, values: dict[str, float]) -> np.ndarray:
    """Conditions with some of them dropped, and those of the microscope known as well as they are in practice."""
    sign = None if contrast == 0 or rng.random() < imaging.contrast_unknown else ("bright" if contrast > 0 else "dark")
    sampling = values["sampling_A"] * rng.normal(1, 0.01) if rng.random() < 0.9 else None
    if rng.random() < imaging.conditions_unknown:
        return encode(sign, sampling_A=sampling)
    noisy = {
        **values,
        "C10_A": values["C10_A"] + rng.normal(0, 12),
        "Cs_A": values["Cs_A"] + rng.normal(0, 3e4),
        "C12_A": max(0.0, values["C12_A"] + rng.normal(0, 4)),
    }
    noisy["focal_spread_A"] *= rng.normal(1, 0.1)
    noisy["log10_dose_e_per_A2"] += rng.normal(0, 0.05)
    known = {k: v for k, v in noisy.items() if k != "sampling_A" and rng.random() < 0.55}
    return encode(sign, zone if rng.random() < 0.5 else None, sampling_A=sampling, **known)


class Sampler:
    """Draws batches from a bank of waves; all randomness comes from one generator, whose state can be saved.

    With `raw`, images are counts times a random gain, not normalised.
    """

    def __init__(
        self,
        waves: Waves,
        imaging: Imaging,
        crop_px: int,
        images: int,
        seed: int | list[int],
        merge_species: bool,
        device: str = "cpu",
        raw: bool = False,
    ) -> None:
        self.waves, self.imaging, self.crop, self.images, self.device = waves, imaging, crop_px, images, device
        self.raw = raw
        self.merge = merge_species
        self.rng = np.random.default_rng(seed)
        typical = [
            m["kind"] == "metal" and m["zone"] == "110" and e == 300 for m, e in zip(waves.meta, waves.energy_keV, strict=True)
        ]
        self.typical = np.flatnonzero(typical)

    def _crop_origin(self, i: int, extent_A: float) -> np.ndarray:
        column = self.waves.columns(i)[0]
        if len(column) and self.rng.random() < 0.85:
            return column[self.rng.integers(len(column))] + self.rng.normal(0, 7, 2) - extent_A / 2
        return self.rng.uniform(0, BOX_A, 2)

    def _columns(
        self, i: int, origin: np.ndarray, extent_A: float, sampling_A: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        xy, cls, surface = self.waves.columns(i)
        rel = (xy - origin - extent_A / 2 + BOX_A / 2) % BOX_A - BOX_A / 2 + extent_A / 2
        keep = np.all((rel > -1) & (rel < extent_A + 1), axis=1)
        cls = cls[keep].astype(int)
        return rel[keep] / sampling_A, np.where(cls == WEAK, WEAK, 0) if self.merge else cls, surface[keep]

    def batch(self, n: int, index: np.ndarray | None = None) -> Batch:
        """Draw `n` images."""
        rng, im = self.rng, self.imaging
        if index is None:
            index = rng.integers(len(self.waves), size=n)
            if len(self.typical) and im.session_share:  # as many again of what typical sessions look at
                index = np.where(rng.random(n) < im.session_share, rng.choice(self.typical, n), index)
        energy = self.waves.energy_keV[index]
        height = np.array([self.waves.meta[i]["height_A"] for i in index])
        scope, defocus = draw_microscope(rng, energy, height, im)
        detector = draw_detector(rng, n, im)
        low, high = im.sampling_A
        native = max(low, im.native_sampling_A[0]), min(high, im.native_sampling_A[1])
        rescaled = (low < native[0] or high > native[1]) and rng.random() < 0.1
        size, final = self.crop, self.crop
        if rescaled or native[0] > native[1]:
            outside = [(low, native[0])] * (low < native[0]) + [(native[1], high)] * (high > native[1])
            s = np.full(n, rng.uniform(*outside[rng.integers(len(outside))]))
            size = int(np.ceil(final * im.nominal_sampling_A / s[0]))
            s[:] = final * im.nominal_sampling_A / size
        else:
            s = rng.uniform(*native, n)
        origin = np.stack([self._crop_origin(int(i), size * s[k]) for k, i in enumerate(index)])
        padded = size + 2 * MARGIN_PX
        start = torch.as_tensor(origin - MARGIN_PX * s[:, None], dtype=torch.float32, device=self.device)
        sampling = torch.as_tensor(s, dtype=torch.float32, device=self.device)
        coefficients = self.waves.coefficients(index, self.device)
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        step = rng.uniform(*im.focal_step_A) * rng.choice([-1, 1])  # series run either way
        frames = []
        for k in range(self.images):
            shift = (k - (self.images - 1) / 2) * step + (rng.normal(0, 0.05 * abs(step), n) if step else 0)
            m = scope.with_defocus(torch.as_tensor(shift, dtype=torch.float32) if step else 0.0).to(self.device)
            intensity = image_intensity(coefficients, m, BOX_A, sampling, (padded, padded), start)
            if k == self.images // 2:
                seen = intensity.cpu().numpy()
            frames.append(record(intensity, sampling, detector, generator)[:, MARGIN_PX:-MARGIN_PX, MARGIN_PX:-MARGIN_PX])
        image = torch.stack(frames, 1)
        factor = 1.0
        if size != final:
            factor = final / size
            image = F.interpolate(image, size=(final, final), mode="bicubic", antialias=True)
        told_s = s / factor
        if not self.raw:
            image = torch_normalise(image, torch.as_tensor(told_s, dtype=torch.float32, device=self.device))
        image = image * torch.as_tensor(np.exp(rng.normal(0, 0.08, (n, 1, 1, 1))), dtype=torch.float32, device=self.device)
        parts = [self._columns(int(i), origin[k], size * s[k], s[k]) for k, i in enumerate(index)]
        columns = [((p + 0.5) * factor - 0.5, c) for p, c, _ in parts]
        contrast = np.zeros(n, int)
        for k, (p, cls, _) in enumerate(parts):
            c = image_contrast(seen[k], p[cls == 0] + MARGIN_PX, s[k], rng)
            contrast[k] = np.sign(c) if abs(c) > CLEAR_CONTRAST else 0
        dose = detector.dose_e_per_A2.numpy()
        told = []
        for k, i in enumerate(index):
            meta = self.waves.meta[int(i)]
            zone = "sheet" if meta["kind"] in ("monolayer", "graphene") else meta["zone"]
            values = {
                "energy_keV": float(energy[k]),
                "Cs_A": float(scope.Cs_A[k]),
                "C10_A": float(defocus[k]),
                "C12_A": float(scope.C12_A[k]),
                "focal_spread_A": float(scope.focal_spread_A[k]),
                "sampling_A": float(told_s[k]),
                "log10_dose_e_per_A2": float(np.log10(dose[k])),
            }
            told.append(_told(rng, im, int(contrast[k]), zone, values))
        image, columns = _turn(image, columns, int(rng.integers(8)), final)
        return Batch(
            image,
            torch.as_tensor(np.stack(told), device=self.device),
            columns,
            [x for _, _, x in parts],
            told_s,
            contrast,
            dose,
        )


def _turn(
    image: torch.Tensor, columns: list[tuple[np.ndarray, np.ndarray]], how: int, size: int
) -> tuple[torch.Tensor, list[tuple[np.ndarray, np.ndarray]]]:
    """One of the eight symmetries of the square."""
    if how & 1:
        image, columns = image.flip(-1), [(p * [1, -1] + [0, size - 1], c) for p, c in columns]
    if how & 2:
        image, columns = image.flip(-2), [(p * [-1, 1] + [size - 1, 0], c) for p, c in columns]
    if how & 4:
        image, columns = image.transpose(-1, -2), [(p[:, ::-1], c) for p, c in columns]
    return image.contiguous(), columns
