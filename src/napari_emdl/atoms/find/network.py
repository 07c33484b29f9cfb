"""Column finder by network: rescales to the network's pixel size, tiles large frames, and gives positions back in frame pixels.

The contract of a `columns` model is its card: see ``config.emdl`` (pixel sizes, conditions, species, thresholds, margin).
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi
from scipy.spatial import cKDTree
from scipy.special import expit

from napari_emdl.atoms.find.normalise import local_normalise
from napari_emdl.atoms.find.resample import Grid
from napari_emdl.atoms.find.sublattices import SublatticeStep, species_mass
from napari_emdl.base.errors import EmdlError, ModelError
from napari_emdl.base.peaks import PeakTable
from napari_emdl.jobs.control import Control
from napari_emdl.models.registry import Model
from napari_emdl.models.session import Session

FIELDS = ("row", "col", "score", "sigma_px", "species", "intensity", "logit")
#: candidates below this score are not kept
FLOOR = 0.02
#: tiles beyond this size, in pixels of the network, so that memory does not grow with the frame
TILE_PX = 1024
#: input pixels times batch on a GPU
GPU_BATCH_PX = 16 * 512 * 512
#: side of the part of a frame that is asked for the contrast, network pixels, and what counts as a column there
PROBE_PX, PROBE_SURE = 320, 0.3
#: memory for maps of frames that were searched already
CACHE_BYTES = 256 << 20


class NetworkColumnFinder:
    """Finds columns with an ONNX network.

    Parameters
    ----------
    model
        Model of task "columns".
    pixel_A
        Pixel size of the frames.
    contrast
        "bright", "dark" or "unknown".
    known
        Imaging conditions by the names of the card (energy_keV, Cs_A, C10_A, ...); None is unknown.
    min_spacing_A
        Least distance between columns; of two that are closer the better one stays.
    device, threads, batch
        How to run.
    tile_px
        Largest side of a tile.
    session
        A session that is open already.
    reverse_foci
        The series runs from large to small defocus; the network takes it the other way round.

    Raises
    ------
    ModelError
        When the network does not fit the contract.
    """

    method = "network"
    contrast_confidence: float | None = None

    def __init__(
        self,
        model: Model,
        pixel_A: float,
        contrast: str = "unknown",
        known: dict[str, float | None] | None = None,
        min_spacing_A: float = 0.8,
        device: str = "auto",
        threads: int | None = None,
        batch: int | None = None,
        tile_px: int = TILE_PX,
        session: Session | None = None,
        reverse_foci: bool = False,
    ) -> None:
        self.session = session or Session(model, device, threads)
        self.session.require(("image", "conditions"), ("candidates", "logit"))
        self.model, self.pixel_A, self.contrast = model, float(pixel_A), contrast
        facts = model.card.config.emdl
        extra: dict[str, Any] = facts.model_extra or {}
        if facts.pixel_A is None:
            raise ModelError(f"{model.name}: the card does not tell pixel_A, the pixel size the network works at")
        self.species: tuple[str, ...] = tuple(facts.species or ("column",))
        self.images = int(extra.get("images", 1))
        self.margin_px = int(extra.get("margin_px", 160))
        self.multiple, self.stride = int(extra.get("multiple", 16)), int(extra.get("stride", 2))
        self.tile_px = max(int(tile_px) // self.multiple * self.multiple, 2 * self.margin_px + self.multiple)
        self.batch = batch
        low, high = facts.ranges.get("pixel_A", (facts.pixel_A, facts.pixel_A))
        self.network_A = self.pixel_A if low <= self.pixel_A <= high else facts.pixel_A
        self.min_spacing_A = min_spacing_A
        self.default_min_score = _threshold(facts.default_min_score, contrast)
        self.conditions = encode_conditions(extra.get("conditions", {}), contrast, known or {}, self.network_A)
        self.reverse_foci = reverse_foci
        self.sublattices = SublatticeStep.of(model)
        self.fields = FIELDS + (("lattice_evidence",) if self.sublattices else ())
        self.notes = _range_notes(facts.ranges, self.pixel_A)

    @property
    def info(self) -> dict[str, Any]:
        """Method, model, provider that really runs, and what the user should know."""
        notes = [*self.notes, self.session.note]
        return {
            "method": self.method, "model": self.model.name, "model_sha256": self.model.sha256,
            "provider": self.session.provider, "note": "; ".join(n for n in notes if n), "contrast": self.contrast,
            "sublattices": self.sublattices.description if self.sublattices else "",
        }  # fmt: skip

    def find(self, frames: NDArray[Any], control: Control | None = None) -> PeakTable:
        """Columns of frames (n, rows, cols), or (n, foci, rows, cols) for a network that takes a focal series."""
        stack = self._checked(frames)
        grid = Grid.scaled(stack.shape[-2:], self.pixel_A / self.network_A)
        images, blank = self._prepared(stack, grid)
        found: list[list[NDArray[np.float32]]] = [[] for _ in stack]
        maps = self._empty_maps(len(stack), grid)
        for tile in self._tiles(grid.shape):
            outputs = self._run(self._cut(images, tile), ("candidates", "logit"), control)
            self._paste(maps, outputs["logit"], tile)
            for index, (candidates, logit) in enumerate(zip(outputs["candidates"], outputs["logit"], strict=True)):
                if self.sublattices:
                    candidates = np.c_[candidates, species_mass(logit, candidates[:, :2], self.stride)]
                found[index].append(_in_core(candidates, tile))
        for image, values in zip(stack, maps, strict=True):
            _maps.put(self._key(image), values)
        empty = {n: np.zeros(0, np.int16 if n == "species" else np.float32) for n in self.fields}
        tables = []
        for parts, image, is_blank in zip(found, stack, blank, strict=True):
            tables.append(empty if is_blank else self._columns(np.concatenate(parts), grid, image))
        return PeakTable.from_lists(tables) if tables else PeakTable.empty((0,), self.fields)

    def sample(
        self, frames: NDArray[Any], points_px: NDArray[np.float64], control: Control | None = None
    ) -> NDArray[np.float32]:
        """Logit of the likeliest species at points (n, k, 2) of the frames, cubic between map pixels; NaN outside."""
        stack = self._checked(frames)
        grid = Grid.scaled(stack.shape[-2:], self.pixel_A / self.network_A)
        maps, blank = self._logit_maps(stack, grid, control)
        out = np.full(points_px.shape[:2], np.nan, np.float32)
        rows, cols = stack.shape[-2:]
        for index in np.flatnonzero(~blank):
            points = points_px[index]
            inside = np.all((points >= -0.5) & (points <= [rows - 0.5, cols - 0.5]), axis=1)
            # map pixel i is centred on input pixel stride * i + (stride - 1) / 2
            at = (grid.to_grid(points) - (self.stride - 1) / 2) / self.stride
            values = ndi.map_coordinates(maps[index], at.T, order=3, mode="nearest", output=np.float32)
            out[index] = np.where(inside, values, np.nan)
        return out

    def logit_maps(self, frames: NDArray[Any], control: Control | None = None) -> NDArray[np.float32]:
        """Logit of the likeliest species (n, rows, cols) at the network's stride."""
        stack = self._checked(frames)
        return self._logit_maps(stack, Grid.scaled(stack.shape[-2:], self.pixel_A / self.network_A), control)[0]

    def _key(self, images: NDArray[Any]) -> bytes:
        """What the map of a frame depends on."""
        about = f"{self.model.sha256}|{self.pixel_A}|{self.network_A}|{self.tile_px}|{images.shape}|{images.dtype}"
        digest = hashlib.blake2b(about.encode() + self.conditions.tobytes(), digest_size=16)
        digest.update(np.ascontiguousarray(images).tobytes())
        return digest.digest()

    def _empty_maps(self, count: int, grid: Grid) -> NDArray[np.float32]:
        return np.zeros((count, *(-(-n // self.stride) for n in grid.shape)), np.float32)

    def _paste(self, maps: NDArray[np.float32], logit: NDArray[np.float32], tile: _Tile) -> None:
        """Put the core of a tile's logits (n, species, rows, cols) into the maps of whole frames."""
        s, (r0, r1), (c0, c1) = self.stride, *tile.core
        height, width = -(-r1 // s) - r0 // s, -(-c1 // s) - c0 // s
        top, left = (r0 - tile.start[0]) // s, (c0 - tile.start[1]) // s
        part = logit[:, :, top : top + height, left : left + width].max(1)
        maps[:, r0 // s : r0 // s + height, c0 // s : c0 // s + width] = part

    def bright_probability(self, frames: NDArray[Any], control: Control | None = None) -> float:
        """Chance that columns are bright, by the network's own probe, over all frames; 0.5 when they are all blank.

        The probe looks at the part of a frame that holds most columns: it was fitted to such, not to wide vacuum.
        """
        stack = self._checked(frames)
        grid = Grid.scaled(stack.shape[-2:], self.pixel_A / self.network_A)
        images, blank = self._prepared(stack, grid)
        maps, _ = self._logit_maps(stack, grid, control)
        logits = []
        for image, values in zip(images[~blank], maps[~blank], strict=True):
            part = self._cut(image[None], self._densest(values, grid.shape))
            logits.append(float(self._run(part, ("contrast",), control)["contrast"][0, 0]))
        return float(expit(np.mean(logits))) if logits else 0.5

    def _densest(self, logit: NDArray[np.float32], shape: tuple[int, int]) -> _Tile:
        """The part of a frame, PROBE_PX at most, where most columns are seen."""
        side = PROBE_PX // self.stride
        sure = expit(logit) > PROBE_SURE
        share = ndi.uniform_filter(sure.astype(np.float32), [min(side, n) for n in sure.shape], mode="constant")
        middle = np.array(np.unravel_index(np.argmax(share), share.shape)) * self.stride
        size = np.minimum(PROBE_PX, shape)
        row, col = np.clip(middle - size // 2, 0, shape - size) // self.multiple * self.multiple
        height, width = -(-size // self.multiple) * self.multiple
        return _Tile((int(row), int(col)), (int(height), int(width)), ((0, shape[0]), (0, shape[1])))

    def _logit_maps(
        self, stack: NDArray[Any], grid: Grid, control: Control | None
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Maps of frames, from the memory where they are still there, and which frames are blank."""
        maps = self._empty_maps(len(stack), grid)
        blank = np.array([_is_blank(images) for images in stack])
        keys = [self._key(images) for images in stack]
        known = [_maps.get(key) for key in keys]
        missing = [i for i, values in enumerate(known) if values is None and not blank[i]]
        for index, values in enumerate(known):
            if values is not None:
                maps[index] = values
        if missing:
            images, _ = self._prepared(stack[missing], grid)
            fresh = self._empty_maps(len(missing), grid)
            for tile in self._tiles(grid.shape):
                self._paste(fresh, self._run(self._cut(images, tile), ("logit",), control)["logit"], tile)
            for index, values in zip(missing, fresh, strict=True):
                # through half precision as well: the same evidence whether it was remembered or not
                maps[index] = values.astype(np.float16)
                _maps.put(keys[index], values)
        return maps, blank

    def _checked(self, frames: NDArray[Any]) -> NDArray[Any]:
        """(n, images, rows, cols), or a clear line."""
        stack = np.asarray(frames)
        if stack.ndim == 3:
            stack = stack[:, None]
        if stack.ndim != 4 or stack.shape[1] != self.images:
            has = stack.shape[1] if stack.ndim == 4 else stack.ndim
            raise EmdlError(
                f"model {self.model.name} takes {self.images} image(s) a field of view, the data has {has}: "
                "choose another model"
            )
        return stack[:, ::-1] if self.reverse_foci else stack

    def _prepared(self, stack: NDArray[Any], grid: Grid) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Rescaled, normalised images (n, images, rows, cols), and which are blank."""
        out = np.zeros((*stack.shape[:2], *grid.shape), np.float32)
        blank = np.zeros(len(stack), bool)
        for index, images in enumerate(stack):
            blank[index] = _is_blank(images)
            if not blank[index]:
                clean = [_without_nan(image) for image in images]
                rescaled = np.stack([grid.resample(image) for image in clean if image is not None])
                out[index] = local_normalise(rescaled, self.network_A)
        return out, blank

    def _tiles(self, shape: tuple[int, int]) -> list[_Tile]:
        axes = [_spans(n, self.tile_px, self.margin_px, self.multiple) for n in shape]
        return [_Tile((r[0], c[0]), (r[1], c[1]), (r[2], c[2])) for r in axes[0] for c in axes[1]]

    def _cut(self, images: NDArray[np.float32], tile: _Tile) -> NDArray[np.float32]:
        """Tile of the images, filled up with zeros (the mean) to a multiple of the network's."""
        (r0, c0), (height, width) = tile.start, tile.size
        part = images[:, :, r0 : r0 + height, c0 : c0 + width]
        pad = [(0, 0), (0, 0), (0, height - part.shape[2]), (0, width - part.shape[3])]
        return np.pad(part, pad) if any(p[1] for p in pad) else np.ascontiguousarray(part)

    def _run(
        self, inputs: NDArray[np.float32], outputs: tuple[str, ...], control: Control | None
    ) -> dict[str, NDArray[np.float32]]:
        """Outputs for all inputs, in batches that fit."""
        results: list[dict[str, NDArray[Any]]] = []
        area = inputs.shape[-1] * inputs.shape[-2]
        batch = self.batch or (1 if self.session.provider.startswith("CPU") else max(1, GPU_BATCH_PX // area))

        def call(start: int, stop: int) -> None:
            feeds = {"image": inputs[start:stop], "conditions": np.repeat(self.conditions[None], stop - start, 0)}
            results.append(self.session.run(feeds, outputs, control))

        self.session.in_batches(len(inputs), batch, call)
        return {name: np.concatenate([part[name] for part in results]) for name in outputs}

    def _columns(self, candidates: NDArray[np.float32], grid: Grid, images: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Fields of one frame from candidates (k, 6) on the grid, with the mass of every species behind them where the
        model tells species by sublattice."""
        kept = candidates[candidates[:, 2] >= FLOOR]
        kept = kept[np.argsort(-kept[:, 2], kind="stable")]
        points = grid.to_frame(kept[:, :2])
        rows, cols = grid.frame_shape
        inside = np.all((points >= -0.5) & (points <= [rows - 0.5, cols - 0.5]), axis=1)
        kept, points = kept[inside], points[inside]
        best = _apart(points, self.min_spacing_A / self.pixel_A)
        kept, points = kept[best], points[best]
        values = np.nan_to_num(ndi.map_coordinates(
            np.asarray(images, np.float32).mean(0), points.T, order=1, mode="nearest", output=np.float32
        ))  # fmt: skip
        columns = {
            "row": points[:, 0].astype(np.float32),
            "col": points[:, 1].astype(np.float32),
            "score": kept[:, 2].astype(np.float32),
            "sigma_px": (kept[:, 3] / float(grid.factor.mean())).astype(np.float32),
            "species": kept[:, 4].astype(np.int16),
            "intensity": values,
            "logit": kept[:, 5].astype(np.float32),
        }
        if self.sublattices:
            voters = kept[:, 2] >= self.default_min_score
            species, evidence = self.sublattices(kept[:, :2], kept[:, 6:], voters)
            columns["species"] = np.where(np.isnan(evidence), columns["species"], species).astype(np.int16)
            columns["lattice_evidence"] = evidence.astype(np.float32)
        return columns


class _MapCache:
    """Maps of frames that were just searched, so that asking for the evidence at the sites does not run the network again.

    Kept in half precision, the oldest go first; shared by all finders of this process.
    """

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes, self._bytes = most_bytes, 0
        self._maps: OrderedDict[bytes, NDArray[np.float16]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: bytes) -> NDArray[np.float16] | None:
        with self._lock:
            return self._maps.get(key)

    def put(self, key: bytes, values: NDArray[np.floating]) -> None:
        half = values.astype(np.float16)
        with self._lock:
            if key in self._maps or half.nbytes > self.most_bytes:
                return
            self._maps[key] = half
            self._bytes += half.nbytes
            while self._bytes > self.most_bytes:
                self._bytes -= self._maps.popitem(last=False)[1].nbytes


_maps = _MapCache(CACHE_BYTES)


class _Tile:
    """Part of a frame: where it starts, its padded size, and the core (start, stop) an axis that counts."""

    def __init__(self, start: tuple[int, int], size: tuple[int, int], core: tuple[tuple[int, int], tuple[int, int]]) -> None:
        self.start, self.size, self.core = start, size, core


def _spans(length: int, tile: int, margin: int, multiple: int) -> list[tuple[int, int, tuple[int, int]]]:
    """(start, padded size, core) of the tiles along one axis; all starts and cores are multiples of `multiple`."""

    def padded(n: int) -> int:
        return -(-n // multiple) * multiple

    if length <= tile:
        return [(0, padded(length), (0, length))]
    margin = padded(margin)
    step = tile - 2 * margin
    spans = []
    core = 0
    while core < length:
        end = min(length, core + step)
        start = max(0, core - margin)
        spans.append((start, min(padded(length), padded(end) + margin) - start, (core, end)))
        core = end
    return spans


def _in_core(candidates: NDArray[np.float32], tile: _Tile) -> NDArray[np.float32]:
    """Candidates of a tile that lie in its core, in pixels of the whole grid."""
    moved = candidates[candidates[:, 2] > 0].copy()
    moved[:, 0] += tile.start[0]
    moved[:, 1] += tile.start[1]
    (r0, r1), (c0, c1) = tile.core
    inside = (moved[:, 0] >= r0 - 0.5) & (moved[:, 0] < r1 - 0.5) & (moved[:, 1] >= c0 - 0.5) & (moved[:, 1] < c1 - 0.5)
    return moved[inside]


def _apart(points: NDArray[np.float64], spacing_px: float) -> NDArray[np.int64]:
    """Indices of points, best first, that keep `spacing_px` from all better ones."""
    keep = np.ones(len(points), bool)
    for a, b in sorted(cKDTree(points).query_pairs(spacing_px)) if len(points) else ():
        if keep[a] and keep[b]:
            keep[max(a, b)] = False
    return np.flatnonzero(keep)


def _without_nan(image: NDArray[Any]) -> NDArray[np.float32] | None:
    """Image with bad pixels filled; None when nothing is left."""
    values = np.asarray(image, np.float32)
    finite = np.isfinite(values)
    if finite.all():
        return values
    return np.where(finite, values, np.median(values[finite])) if finite.any() else None


def _is_blank(images: NDArray[Any]) -> bool:
    """Whether any image of a field of view is constant or has no finite pixel."""
    clean = [_without_nan(image) for image in images]
    return any(image is None or not np.ptp(image) > 0 for image in clean)


def _threshold(default: float | dict[str, float] | None, contrast: str) -> float:
    if isinstance(default, dict):
        return float(default.get(contrast, default.get("unknown", max(default.values()))))
    return 0.5 if default is None else float(default)


def _range_notes(ranges: dict[str, tuple[float, float]], pixel_A: float) -> list[str]:
    low, high = ranges.get("rescaled_pixel_A", ranges.get("pixel_A", (0.0, np.inf)))
    if low <= pixel_A <= high:
        return []
    return [
        f"pixel size {pixel_A:.3g} Å is outside the {low:.3g} to {high:.3g} Å the network was trained for: check the result"
    ]


def encode_conditions(
    layout: dict[str, Any], contrast: str, known: dict[str, float | None], sampling_A: float
) -> NDArray[np.float32]:
    """Vector of imaging conditions in the layout of the card; what is unknown stays zero.

    Parameters
    ----------
    layout
        ``config.emdl.conditions``: size, contrast (name -> entry), numeric (list of name, known, value, scale), zone.
    contrast
        "bright", "dark" or "unknown".
    known
        Values by name; names the network does not take are left out, None is unknown.
    sampling_A
        Pixel size of what the network sees.
    """
    vector = np.zeros(int(layout.get("size", 20)), np.float32)
    if contrast in layout.get("contrast", {}):
        vector[int(layout["contrast"][contrast])] = 1
    values = {**known, "sampling_A": sampling_A}
    for entry in layout.get("numeric", ()):
        value = values.get(entry["name"])
        if value is not None:
            vector[int(entry["known"])] = 1
            vector[int(entry["value"])] = value / float(entry["scale"])
    return vector
