"""Images without columns: vacuum, amorphous films, lattice fringes, gratings, edges, shapes and natural-looking textures."""

from __future__ import annotations

import string
from functools import lru_cache
from pathlib import Path

import numpy as np
from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter, rotate

from napari_emdl.training.atoms.degrade import smooth_field

KINDS = ("noise", "film", "fringes", "texture", "shapes", "glyphs", "text", "leaves", "edge")

SHARES = (0.19, 0.28, 0.12, 0.06, 0.05, 0.04, 0.09, 0.08, 0.09)
#: kinds that come from screens and cameras, mostly with little noise
PRINTED = ("shapes", "glyphs", "text", "leaves")
LETTERS = string.ascii_letters + string.digits + ".,;:-()[]=+%/"


def _grid(n: int) -> tuple[np.ndarray, np.ndarray]:
    r, c = np.meshgrid(np.arange(n, dtype=np.float32), np.arange(n, dtype=np.float32), indexing="ij")
    return r, c


def _film(rng: np.random.Generator, n: int, sampling_A: float) -> np.ndarray:
    """Amorphous film: white noise through a phase contrast transfer function with an envelope."""
    k = np.hypot(np.fft.fftfreq(n)[:, None], np.fft.rfftfreq(n)[None]) / sampling_A
    chi = np.pi * 0.0197 * rng.uniform(-800, 800) * k**2 + 0.5 * np.pi * rng.uniform(-1, 1) * 1.2e7 * 0.0197**3 * k**4
    envelope = np.exp(-((k / rng.uniform(0.3, 0.9)) ** rng.uniform(2, 4)))
    spectrum = np.fft.rfft2(rng.normal(0, 1, (n, n))) * np.sin(chi) * envelope
    x = np.fft.irfft2(spectrum, s=(n, n))
    return x / max(x.std(), 1e-9)


def _fringes(rng: np.random.Generator, n: int, sampling_A: float) -> np.ndarray:
    """One set of lattice planes, at times with its second order, in a patch."""
    r, c = _grid(n)
    t, k = rng.uniform(0, np.pi), 2 * np.pi * sampling_A / rng.uniform(1.6, 8.0)
    phase = k * (r * np.cos(t) + c * np.sin(t)) + 2.5 * smooth_field(rng, n, 0.25 * n)
    x = np.cos(phase) + rng.uniform(0, 0.5) * np.cos(2 * phase + rng.uniform(0, 6.28))
    if rng.random() < 0.6:
        x = x * (smooth_field(rng, n, rng.uniform(0.05, 0.2) * n) > rng.uniform(-0.8, 0.5))
    return gaussian_filter(x, 1.0)


def _texture(rng: np.random.Generator, n: int) -> np.ndarray:
    """A random field whose power falls with frequency as in photographs."""
    k = np.hypot(np.fft.fftfreq(n)[:, None], np.fft.rfftfreq(n)[None])
    x = np.fft.irfft2(np.fft.rfft2(rng.normal(0, 1, (n, n))) / np.maximum(k, 1 / n) ** rng.uniform(0.7, 2.0), s=(n, n))
    return x / max(x.std(), 1e-9)


def _shapes(rng: np.random.Generator, n: int) -> np.ndarray:
    """Strokes, rectangles and rings such as text, scale bars and drawings have."""
    r, c = _grid(n)
    x = np.zeros((n, n), np.float32)
    for _ in range(int(rng.integers(3, 60))):
        centre, size, turn = rng.uniform(0, n, 2), rng.uniform(3, 30), rng.choice([0, np.pi / 2, rng.uniform(0, np.pi)])
        u = (r - centre[0]) * np.cos(turn) + (c - centre[1]) * np.sin(turn)
        v = (c - centre[1]) * np.cos(turn) - (r - centre[0]) * np.sin(turn)
        line = rng.uniform(1, 4)
        if rng.random() < 0.6:
            inside = (np.abs(u) < size / 2) & (np.abs(v) < line / 2)
        elif rng.random() < 0.5:
            inside = np.abs(np.hypot(u, v) - size / 2) < line / 2
        else:
            inside = (np.abs(u) < size / 2) & (np.abs(v) < size * rng.uniform(0.3, 1) / 2)
        x[inside] = rng.choice([1.0, -1.0, rng.uniform(-1, 1)])
    return gaussian_filter(x, rng.uniform(0.3, 1.2))


def _glyphs(rng: np.random.Generator, n: int) -> np.ndarray:
    """Lines of small signs, as of printed text: a few random ones of 7 x 5 dots, over and over."""
    signs = rng.random((26, 7, 5)) < rng.uniform(0.3, 0.6)
    signs[rng.random(26) < 0.15] = False
    scale, gap, lead = int(rng.integers(1, 4)), int(rng.integers(1, 3)), int(rng.integers(2, 8))
    rows, cols = -(-n // (scale * (7 + lead))) + 1, -(-n // (scale * (5 + gap))) + 1
    page = np.zeros((rows, 7 + lead, cols, 5 + gap), np.float32)
    page[:, :7, :, :5] = signs[rng.integers(26, size=(rows, cols))].transpose(0, 2, 1, 3)
    page[rng.random(rows) < 0.1] = 0
    x = np.kron(page.reshape(rows * (7 + lead), -1), np.ones((scale, scale), np.float32))[:n, :n]
    return gaussian_filter(x if rng.random() < 0.5 else 1 - x, rng.uniform(0.2, 0.45) * scale)


@lru_cache(maxsize=1)
def _fonts() -> tuple[str, ...]:
    """Paths of the letters' fonts that come with matplotlib."""
    folder = Path(get_data_path()) / "fonts" / "ttf"
    return tuple(str(p) for p in sorted(folder.glob("*.ttf")) if p.name.startswith(("DejaVu", "cmr", "cmtt", "cmb", "cmss")))


def _text(rng: np.random.Generator, n: int) -> np.ndarray:
    """Lines of letters in a real font of 7 to 40 pixels, upright or turned, as of a printed page, a screenshot or a label."""
    size = int(np.exp(rng.uniform(np.log(7), np.log(40))))
    font = ImageFont.truetype(_fonts()[int(rng.integers(len(_fonts())))], size)
    page = Image.new("L", (n, n), 0)
    draw, letters = ImageDraw.Draw(page), list(LETTERS)
    row = float(rng.uniform(-size, size))
    while row < n:
        if rng.random() > 0.08:
            words = ("".join(rng.choice(letters, int(rng.integers(1, 11)))) for _ in range(3 + n // (2 * size)))
            draw.text((float(rng.uniform(-3 * size, 0)), row), " ".join(words), fill=255, font=font)
        row += size * rng.uniform(1.05, 1.5)
    x = np.rot90(np.asarray(page, np.float32) / 255, int(rng.integers(4)))
    if rng.random() < 0.3:
        x = rotate(x, float(rng.uniform(-30, 30)), reshape=False, order=1, mode="reflect")
    return gaussian_filter(x if rng.random() < 0.5 else 1 - x, rng.uniform(0.0, 1.0))


def _leaves(rng: np.random.Generator, n: int) -> np.ndarray:
    """Opaque discs and tilted rectangles of all sizes over each other, with shading and texture: the statistics of photographs
    (dead leaves; Lee, Mumford and Huang 2001)."""
    r, c = _grid(n)
    x = np.full((n, n), rng.uniform(-1, 1), np.float32)
    smallest = rng.uniform(1.5, 6)
    for _ in range(int(rng.integers(40, 240))):
        radius = min(smallest / np.sqrt(rng.uniform(1e-3, 1)), 0.3 * n)
        (p, q), t = rng.uniform(0, n, 2), rng.uniform(0, np.pi)
        box = (
            slice(max(0, int(p - 2 * radius)), int(p + 2 * radius) + 2),
            slice(max(0, int(q - 2 * radius)), int(q + 2 * radius) + 2),
        )
        u = (r[box] - p) * np.cos(t) + (c[box] - q) * np.sin(t)
        v = (c[box] - q) * np.cos(t) - (r[box] - p) * np.sin(t)
        inside = (
            np.hypot(u, v) < radius if rng.random() < 0.6 else (np.abs(u) < radius) & (np.abs(v) < radius * rng.uniform(0.1, 1))
        )
        x[box][inside] = rng.normal(0, 1) + rng.normal(0, 0.3) * u[inside] / radius
    x += rng.uniform(0, 0.3) * _texture(rng, n)
    return gaussian_filter(x, rng.uniform(0.4, 1.5))


def _edge(rng: np.random.Generator, n: int, sampling_A: float) -> np.ndarray:
    """The rim of a hole: a step with Fresnel fringes, an amorphous film on one side."""
    r, c = _grid(n)
    t = rng.uniform(0, 2 * np.pi)
    d = ((r - n / 2) * np.cos(t) + (c - n / 2) * np.sin(t)) * sampling_A + rng.normal(0, 0.2 * n) * sampling_A
    d = d + rng.uniform(0, 4) * smooth_field(rng, n, rng.uniform(0.03, 0.15) * n)
    fringe = np.cos(2 * np.pi * np.sign(d) * np.sqrt(np.abs(d) / rng.uniform(1, 6))) * np.exp(-np.abs(d) / rng.uniform(2, 15))
    return rng.uniform(0, 4) * (d > 0) + rng.uniform(0, 2) * fringe + rng.uniform(0, 1) * _film(rng, n, sampling_A) * (d > 0)


def negative(
    rng: np.random.Generator, n: int, sampling_A: float, frames: tuple[int, ...] = (1,), kind: str | None = None
) -> np.ndarray:
    """A random image (channels, n, n) without columns, of a kind if given; channels are means of `frames` frames."""
    kind = kind or str(rng.choice(KINDS, p=SHARES))
    scene: np.ndarray
    if kind == "noise":
        scene = np.zeros((n, n))
    elif kind == "film":
        scene = _film(rng, n, sampling_A)
    elif kind == "fringes":
        scene = _fringes(rng, n, sampling_A) + rng.uniform(0, 1) * _film(rng, n, sampling_A)
    elif kind == "texture":
        scene = _texture(rng, n)
    elif kind == "shapes":
        scene = _shapes(rng, n)
    elif kind == "glyphs":
        scene = 2 * _glyphs(rng, n)
    elif kind == "text":
        scene = 2 * _text(rng, n)
    elif kind == "leaves":
        scene = _leaves(rng, n)
    else:
        scene = _edge(rng, n, sampling_A)
    if rng.random() < 0.4:
        scene = scene + rng.uniform(0, 2) * smooth_field(rng, n, 0.2 * n)
    printed = kind in PRINTED and rng.random() < 0.8
    counts = float(np.exp(rng.uniform(np.log(50 if printed else 0.05), np.log(1e5 if printed else 2000))))
    depth = rng.uniform(0.02, 0.3)
    expected = counts * np.maximum(1 + depth * scene, 0)
    blur = rng.uniform(0.3, 1.2) if rng.random() < 0.5 else 0.0
    images = []
    for count in frames:
        if not count:
            images.append(np.zeros((n, n)))
            continue
        x = rng.poisson(expected * count) / count
        images.append(gaussian_filter(x.astype(np.float32), blur) if blur else x)
    return np.stack(images).astype(np.float32)
