"""Batches of everything a column network is to see: HRTEM single images and movies, incoherent images, and images without
columns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch.nn import functional as F

from napari_emdl.training.atoms.conditions import NEIGHBOURS, encode_full
from napari_emdl.training.atoms.config import ColumnsConfig
from napari_emdl.training.atoms.degrade import filmlike, with_border
from napari_emdl.training.atoms.imaging import Detector, Microscope, image_contrast, image_intensity, record
from napari_emdl.training.atoms.incoherent import render
from napari_emdl.training.atoms.lattices import BOX_A, RING, WEAK
from napari_emdl.training.atoms.negatives import negative
from napari_emdl.training.atoms.sampling import (
    CLEAR_CONTRAST,
    MARGIN_PX,
    Batch,
    _turn,
    draw_detector,
    draw_microscope,
    torch_normalise,
)
from napari_emdl.training.atoms.waves import Waves

KINDS = ("movie", "single", "stem", "negative")
#: ring centres are the blobs that are seen when they stand out so much more than atoms
RINGS_STAND_OUT = 1.25
#: two columns nearer than this are one blob when the microscope passes less than PASSED of their spacing
PAIR_A, PASSED = 1.6, 0.12
#: usual pixel sizes of incoherent images of sheets, A
SHEETS_A = (0.05, 0.16)
#: residual misalignment of neighbouring frames, A
MISALIGNED_A = 0.12


class Bank:
    """Waves of several specimens, and what is needed to mix pairs of them."""

    def __init__(self, waves: list[Waves], pairs: Waves | None) -> None:
        self.single, self.pairs = [w for w in waves if len(w)], pairs
        sizes = np.array([len(w) for w in self.single], float)
        self.share = sizes / sizes.sum() if len(sizes) else sizes
        self.first = (
            np.array([i for i, m in enumerate(pairs.meta) if "blinking" in m]) if pairs is not None else np.zeros(0, int)
        )

    def typical(self, k: int) -> np.ndarray:
        """Indices of what typical corrected sessions look at, metal on [110] at 300 kV, in bank `k`."""
        w = self.single[k]
        return np.flatnonzero([
            m["kind"] == "metal" and m["zone"] == "110" and e == 300 for m, e in zip(w.meta, w.energy_keV, strict=True)
        ])  # fmt: skip


class MixedSampler:
    """Draws mixed batches; all randomness comes from `rng`, whose state can be saved."""

    def __init__(self, bank: Bank, config: ColumnsConfig, seed: int | list[int], device: str = "cpu") -> None:
        self.bank, self.config, self.device = bank, config, device
        self.crop, self.imaging, self.mix = config.crop_px, config.imaging, config.mix
        self.rng = np.random.default_rng(seed)
        self._typical = [bank.typical(k) for k in range(len(bank.single))]

    def batch(self, n: int, kinds: tuple[str, ...] | None = None) -> Batch:
        """Draw `n` samples, of `kinds` (one a sample) if given; movies are single images where there is no bank of pairs."""
        rng = self.rng
        if kinds is None:
            share = np.array([getattr(self.mix, k) for k in KINDS])
            kinds = tuple(rng.choice(KINDS, n, p=share / share.sum()))
        parts = []
        for kind in KINDS:
            count = kinds.count(kind)
            if count and kind in ("movie", "single"):
                parts.append(self._hrtem(count, kind == "movie"))
            elif count:
                parts += [self._stem() if kind == "stem" else self._negative() for _ in range(count)]
        return Batch(
            torch.cat([p.image for p in parts]), torch.cat([p.conditions for p in parts]),
            [c for p in parts for c in p.columns], [s for p in parts for s in p.surface],
            np.concatenate([p.sampling_A for p in parts]), np.concatenate([p.contrast for p in parts]),
            np.concatenate([p.dose_e_per_A2 for p in parts]),
            np.concatenate([p.sampling_A if p.camera_A is None else p.camera_A for p in parts]),
            torch.cat([p.counts for p in parts if p.counts is not None]),
        )  # fmt: skip

    def _finished(
        self,
        image: torch.Tensor,
        columns: list[tuple[np.ndarray, np.ndarray]],
        surface: list[np.ndarray],
        sampling_A: np.ndarray,
        contrast: np.ndarray,
        dose: np.ndarray,
        told: list[np.ndarray],
    ) -> Batch:
        """Every channel normalised by itself (an empty one stays zero), one of the eight symmetries of the square."""
        n, channels, size, _ = image.shape
        s = torch.as_tensor(np.repeat(sampling_A, channels), dtype=torch.float32)
        x = torch_normalise(image.reshape(n * channels, 1, size, size).float(), s).reshape(image.shape)
        x = x.clamp(-10, 10) * torch.as_tensor(np.exp(self.rng.normal(0, 0.06, (n, 1, 1, 1))), dtype=torch.float32)
        both, columns = _turn(torch.cat([x, image.float()], 1), columns, int(self.rng.integers(8)), size)
        x, counts = both[:, :channels].contiguous(), both[:, channels:]
        return Batch(
            x.to(self.device), torch.as_tensor(np.stack(told), device=self.device), columns, surface, sampling_A, contrast,
            dose, counts=counts,
        )  # fmt: skip

    def _neighbours(self) -> tuple[int, int]:
        """How many frames lie near and far: all of them mostly, at times fewer as at the ends of a movie."""
        rng = self.rng
        if rng.random() < 0.55:
            return NEIGHBOURS
        near = int(rng.integers(1, NEIGHBOURS[0] + 1))
        return near, 0 if rng.random() < 0.4 else int(rng.integers(1, NEIGHBOURS[1] + 1))

    def _scale(self, sheet: bool) -> tuple[float, float] | None:
        """Range of pixel sizes that are rescaled; None: used as they are."""
        u = self.rng.random()
        if u < (self.mix.coarse_share_sheets if sheet else self.mix.coarse_share):
            return self.mix.coarse_A
        return self.mix.fine_A if u >= 1 - self.mix.fine_share else None

    def _hrtem(self, n: int, movie: bool) -> Batch:
        rng, im = self.rng, self.imaging
        movie = movie and self.bank.pairs is not None
        if movie and self.bank.pairs is not None:
            waves = self.bank.pairs
            index = rng.choice(self.bank.first, n)
        else:
            k = int(rng.choice(len(self.bank.single), p=self.bank.share))
            waves = self.bank.single[k]
            index = rng.integers(len(waves), size=n)
            if len(self._typical[k]):
                index = np.where(rng.random(n) < im.session_share, rng.choice(self._typical[k], n), index)
        sheet = waves.meta[int(index[0])]["kind"] in ("graphene", "monolayer")
        outside = self._scale(sheet)
        if outside is None:
            size, s = self.crop, rng.uniform(*im.native_sampling_A, n)
        else:
            size = int(np.ceil(self.crop * im.nominal_sampling_A / rng.uniform(*outside)))
            s = np.full(n, self.crop * im.nominal_sampling_A / size)
        scope, defocus = draw_microscope(rng, waves.energy_keV[index], np.array([waves.meta[i]["height_A"] for i in index]), im)
        detector = draw_detector(rng, n, im)
        origin = np.stack([self._origin(waves, int(i), size * s[j]) for j, i in enumerate(index)])
        frames = [self._neighbours() if movie else (0, 0) for _ in range(n)]
        intensities, present = self._intensities(waves, index, scope, s, origin, size, frames, movie)
        image, hidden = self._recorded(intensities, s, detector, frames, size)
        factor = self.crop / size
        if size != self.crop:
            image = F.interpolate(image, size=(self.crop, self.crop), mode="bicubic", antialias=True)
        told_s = s / factor
        seen = intensities[0].numpy()
        columns, surface, contrast, told = [], [], np.zeros(n, int), []
        for j, i in enumerate(index):
            p, cls, edge, sign = self._truth(waves, int(i), present[j], origin[j], size, s[j], seen[j], scope, j)
            columns.append(((p + 0.5) * factor - 0.5, _left_out(cls, p, hidden[j])))
            surface.append(edge)
            contrast[j] = sign
            meta = waves.meta[int(i)]
            values = {
                "energy_keV": float(scope.energy_keV[j]), "Cs_A": float(scope.Cs_A[j]), "C10_A": float(defocus[j]),
                "C12_A": float(scope.C12_A[j]), "focal_spread_A": float(scope.focal_spread_A[j]),
                "log10_dose_e_per_A2": float(torch.log10(detector.dose_e_per_A2[j])),
            }  # fmt: skip
            zone = "sheet" if meta["kind"] in ("monolayer", "graphene") else meta["zone"]
            zone = zone if zone in ("110", "100", "111", "sheet") else None
            told.append(self._told(sign, "hrtem", float(told_s[j]), frames[j], zone, values))
        made = self._finished(image, columns, surface, told_s, contrast, detector.dose_e_per_A2.numpy(), told)
        return replace(made, camera_A=s)

    def _origin(self, waves: Waves, i: int, extent_A: float) -> np.ndarray:
        column = waves.columns(i)[0]
        if len(column) and self.rng.random() < 0.85:
            return column[self.rng.integers(len(column))] + self.rng.normal(0, 7, 2) - extent_A / 2
        return self.rng.uniform(0, BOX_A, 2)

    def _intensities(
        self, waves: Waves, index: np.ndarray, scope: Microscope, s: np.ndarray, origin: np.ndarray, size: int,
        frames: list[tuple[int, int]], movie: bool,
    ) -> tuple[list[torch.Tensor], list[np.ndarray]]:  # fmt: skip
        """Noise-free images of the middle frame and means of the neighbours, and the columns present in the middle one."""
        padded, n = size + 2 * MARGIN_PX, len(index)
        sampling = torch.as_tensor(s, dtype=torch.float32)
        start = torch.as_tensor(origin - MARGIN_PX * s[:, None], dtype=torch.float32)
        full = waves.coefficients(index)
        present = [np.ones(len(waves.columns(int(i))[0]), bool) for i in index]

        def image(c: torch.Tensor, shift_A: float = 0.0) -> torch.Tensor:
            moved = start + torch.as_tensor(self.rng.normal(0, shift_A, (n, 2)), dtype=torch.float32) if shift_A else start
            return image_intensity(c, scope, BOX_A, sampling, (padded, padded), moved)

        if not movie:
            return [image(full)], present
        without = waves.coefficients(index + 1)
        grid = full.shape[-1]
        middle, owners, shares = without.clone(), [], []
        for j, i in enumerate(index):
            blinking = np.array(waves.meta[int(i)]["blinking"], int)
            states = self._states(len(blinking), frames[j])
            present[j][blinking[~states[0].astype(bool)]] = False
            owner = _nearest(waves.columns(int(i))[0][blinking], grid)
            occupied = np.r_[states[0], 0.0][owner]
            a, b = (torch.fft.ifft2(torch.fft.ifftshift(x[j], dim=(-2, -1))) for x in (full, without))
            mixed = b + torch.as_tensor(occupied, dtype=torch.float32) * (a - b)
            middle[j] = torch.fft.fftshift(torch.fft.fft2(mixed), dim=(-2, -1))
            owners.append(owner)
            shares.append(states)
        result = [image(middle)]
        shift = MISALIGNED_A if self.rng.random() < 0.9 else 1.0
        for k in (1, 2):
            moved = self.rng.normal(0, shift, (n, 2))
            at = start + torch.as_tensor(moved, dtype=torch.float32)
            with_all, with_none = (image_intensity(c, scope, BOX_A, sampling, (padded, padded), at) for c in (full, without))
            share = torch.stack([
                _on_pixels(np.r_[shares[j][k], 0.0][owners[j]], at[j].numpy(), s[j], padded) for j in range(n)
            ])  # fmt: skip
            result.append(with_none + share * (with_all - with_none))
        return result, present

    def _states(self, count: int, frames: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Occupancy (count,) of blinking columns in the middle frame, and its mean over the near and the far neighbours."""
        rng, occupied = self.rng, self.rng.uniform(0.2, 0.9)
        if rng.random() < 0.6:
            states = rng.random((9, count)) < occupied
        else:
            change = float(np.exp(rng.uniform(np.log(0.03), np.log(0.5))))
            states = np.empty((9, count), bool)
            states[4] = rng.random(count) < occupied
            for k in (5, 6, 7, 8):
                states[k] = states[k - 1] ^ (rng.random(count) < change)
            for k in (3, 2, 1, 0):
                states[k] = states[k + 1] ^ (rng.random(count) < change)
        near = states[[3, 5][: max(frames[0], 1)]].mean(0)
        far = states[[2, 6, 1, 7, 0, 8][: max(frames[1], 1)]].mean(0)
        return states[4].astype(float), near, far

    def _recorded(
        self, intensities: list[torch.Tensor], s: np.ndarray, d: Detector, frames: list[tuple[int, int]], size: int
    ) -> tuple[torch.Tensor, list[np.ndarray | None]]:
        """Counts (n, 3, size, size) of the middle frame and of the neighbours' means, film-like or not, and the pixels that a
        border hides."""
        rng, n = self.rng, len(s)
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        sampling = torch.as_tensor(s, dtype=torch.float32)
        inner = slice(MARGIN_PX, MARGIN_PX + size)
        out = torch.zeros(n, 3, size, size)
        dose = d.dose_e_per_A2
        for k, intensity in enumerate(intensities):
            count = torch.tensor([1.0 if k == 0 else max(f[k - 1], 1) for f in frames])
            d.dose_e_per_A2 = dose * count
            out[:, k] = record(intensity, sampling, d, generator)[:, inner, inner] / count[:, None, None]
            for j, f in enumerate(frames):
                if k and not f[k - 1]:
                    out[j, k] = 0
        d.dose_e_per_A2 = dose
        hidden: list[np.ndarray | None] = [None] * n
        for j, f in enumerate(frames):
            used = [0] + [k for k in (1, 2) if f[k - 1]]
            x = out[j, used].numpy()
            if rng.random() < self.mix.filmlike:
                x = filmlike(rng, x, (1, *(f[k - 1] for k in used[1:])))
            if rng.random() < 0.05:
                x, hidden[j] = with_border(rng, x)
            out[j, used] = torch.as_tensor(x)
        return out, hidden

    def _truth(
        self, waves: Waves, i: int, present: np.ndarray, origin: np.ndarray, size: int, s: float, seen: np.ndarray,
        scope: Microscope, j: int,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:  # fmt: skip
        """Columns of a crop in pixels, their class and edge flag, and the sign of the contrast (0: not clear)."""
        extent = size * s
        xy, cls, edge = (v[present] for v in waves.columns(i))
        rel = (xy - origin - extent / 2 + BOX_A / 2) % BOX_A - BOX_A / 2 + extent / 2
        keep = np.all((rel > -1) & (rel < extent + 1), axis=1)
        p, cls, edge = rel[keep] / s, cls[keep].astype(int), edge[keep]
        rings = cls == RING
        c = image_contrast(seen, p[(cls != WEAK) & ~rings] + MARGIN_PX, s, self.rng)
        if rings.any():
            r = image_contrast(seen, p[rings] + MARGIN_PX, s, self.rng)
            use = abs(r) > RINGS_STAND_OUT * abs(c)
            c = r if use else c
            p, cls, edge = (v[rings if use else ~rings] for v in (p, cls, edge))
        elif waves.meta[i]["kind"] == "crystal" and _passed(scope, j, PAIR_A) < PASSED:
            p, cls, edge = _one_blob(p, cls, edge, PAIR_A / s)
        sign = 0 if not np.isfinite(c) or abs(c) <= CLEAR_CONTRAST else int(np.sign(c))
        return p, np.where(cls == WEAK, WEAK, 0), edge, sign

    def _told(
        self, contrast: int, mode: str | None, sampling_A: float, frames: tuple[int, int], zone: str | None,
        values: dict[str, float],
    ) -> np.ndarray:  # fmt: skip
        """Conditions with some of them dropped, and those of the microscope known as well as they are in practice."""
        rng, im = self.rng, self.imaging
        sign = None if contrast == 0 or rng.random() < im.contrast_unknown else ("bright" if contrast > 0 else "dark")
        mode = mode if rng.random() < 0.35 else None
        sampling = sampling_A * rng.normal(1, 0.01)
        if not values or rng.random() < im.conditions_unknown:
            return encode_full(sign, None, mode, frames, sampling_A=sampling)
        noisy = {
            **values, "C10_A": values["C10_A"] + rng.normal(0, 12), "Cs_A": values["Cs_A"] + rng.normal(0, 3e4),
            "C12_A": max(0.0, values["C12_A"] + rng.normal(0, 4)),
            "focal_spread_A": values["focal_spread_A"] * rng.normal(1, 0.1),
        }  # fmt: skip
        known = {k: v for k, v in noisy.items() if rng.random() < 0.55}
        return encode_full(sign, zone if rng.random() < 0.5 else None, mode, frames, sampling_A=sampling, **known)

    def _stem(self) -> Batch:
        rng, im = self.rng, self.imaging
        sheet = rng.random() < self.mix.stem_sheets
        low, high = np.log(self.mix.stem_sampling_A)
        if sheet and rng.random() < 0.7:
            low, high = np.log(SHEETS_A)
        elif rng.random() >= 0.15:
            low = max(low, np.log(0.09))
        s = float(np.exp(rng.uniform(low, high)))
        nominal = s if im.native_sampling_A[0] <= s <= im.native_sampling_A[1] else im.nominal_sampling_A
        size = int(np.ceil(self.crop * nominal / s))
        frames = self._neighbours() if rng.random() < 0.3 else (0, 0)
        u = rng.random()
        dark, phase = u < self.mix.stem_dark, u >= 1 - self.mix.stem_phase
        made = render(rng, size, s, frames, "abf" if dark else "phase" if phase else "haadf", sheet)
        x = made.image.numpy()
        used = [0] + [k for k in (1, 2) if frames[k - 1]]
        if rng.random() < self.mix.filmlike_stem:
            x[used] = filmlike(rng, x[used], (1, *(frames[k - 1] for k in used[1:])), self.mix.blurred_stem)
        hidden = None
        if rng.random() < 0.05:
            x[used], hidden = with_border(rng, x[used])
        image = torch.as_tensor(x)[None]
        factor = self.crop / size
        if size != self.crop:
            image = F.interpolate(image, size=(self.crop, self.crop), mode="bicubic", antialias=True)
        told_s = s / factor
        sign = (-1 if dark else 1) if len(made.column_px) else 0
        told = self._told(sign, "stem", told_s, frames, None, {})
        columns = [((made.column_px + 0.5) * factor - 0.5, _left_out(made.column_class, made.column_px, hidden))]
        dose = np.array([np.nan])
        batch = self._finished(image, columns, [made.surface], np.array([told_s]), np.array([sign]), dose, [told])
        return replace(batch, camera_A=np.array([s]))

    def _negative(self) -> Batch:
        rng, im = self.rng, self.imaging
        coarse = rng.random() < 0.35
        s = rng.uniform(0.15, 0.4) if coarse else rng.uniform(*im.native_sampling_A)
        size = int(np.ceil(self.crop * im.nominal_sampling_A / s)) if coarse else self.crop
        frames = self._neighbours() if rng.random() < 0.35 else (0, 0)
        x = negative(rng, size, s, (1, *frames))
        if rng.random() < 0.4:
            used = [0] + [k for k in (1, 2) if frames[k - 1]]
            x[used] = filmlike(rng, x[used], (1, *(frames[k - 1] for k in used[1:])))
        image = torch.as_tensor(x)[None]
        if size != self.crop:
            image = F.interpolate(image, size=(self.crop, self.crop), mode="bicubic", antialias=True)
        told_s = s * size / self.crop
        sign = int(rng.choice([-1, 1]))
        told = self._told(sign, str(rng.choice(["hrtem", "stem"])), told_s, frames, None, {})
        empty = [(np.zeros((0, 2)), np.zeros(0, int))]
        return self._finished(image, empty, [np.zeros(0, bool)], np.array([told_s]), np.array([0]), np.array([np.nan]), [told])


def _left_out(cls: np.ndarray, p: np.ndarray, hidden: np.ndarray | None) -> np.ndarray:
    """Classes of columns at pixels p, those that a border hides being left out."""
    if hidden is None:
        return cls
    r, c = np.clip(np.round(p).astype(int), 0, len(hidden) - 1).T
    return np.where(hidden[r, c], WEAK, cls)


def _nearest(xy_A: np.ndarray, grid: int) -> np.ndarray:
    """Index (grid, grid) of the nearest of the columns in the periodic box; len(xy_A) everywhere without any."""
    if not len(xy_A):
        return np.zeros((grid, grid), int)
    at = np.arange(grid) * (BOX_A / grid)
    d = (xy_A[:, :, None] - at + BOX_A / 2) % BOX_A - BOX_A / 2
    return np.argmin(d[:, 0, :, None].astype(np.float32) ** 2 + d[:, 1, None, :].astype(np.float32) ** 2, axis=0)


def _on_pixels(values: np.ndarray, start_A: np.ndarray, sampling_A: float, size: int) -> torch.Tensor:
    """Values on the box's grid at the pixels of an image."""
    grid = len(values)
    r, c = (np.round((start_A[k] + sampling_A * np.arange(size)) / (BOX_A / grid)).astype(int) % grid for k in (0, 1))
    return torch.as_tensor(values[np.ix_(r, c)], dtype=torch.float32)


def _passed(scope: Microscope, j: int, spacing_A: float) -> float:
    """Temporal envelope of one microscope of a batch at a spacing."""
    a = float(scope.wavelength_A[j]) / spacing_A
    return float(np.exp(-((0.5 * np.pi / float(scope.wavelength_A[j]) * float(scope.focal_spread_A[j]) * a**2) ** 2)))


def _one_blob(p: np.ndarray, cls: np.ndarray, edge: np.ndarray, least_px: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Columns with those nearer than `least_px` to each other joined at their middle."""
    from scipy.spatial import cKDTree

    p, keep = p.copy(), np.ones(len(p), bool)
    strong = np.flatnonzero(cls != WEAK)
    for a, b in strong[cKDTree(p[strong]).query_pairs(least_px, output_type="ndarray")] if len(strong) else ():
        if keep[a] and keep[b]:
            p[a], keep[b] = (p[a] + p[b]) / 2, False
    return p[keep], cls[keep], edge[keep]
