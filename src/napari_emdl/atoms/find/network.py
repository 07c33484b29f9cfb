"""Column finder by network: rescales to the network's pixel size, tiles large frames, and gives positions back in frame pixels.

The contract of a `columns` model is its card: see ``config.emdl`` (pixel sizes, conditions, species, thresholds, margin).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi
from scipy.spatial import cKDTree
from scipy.special import expit

from napari_emdl.atoms.find import maps as map_cache
from napari_emdl.atoms.find.card import encode_conditions, outside_range, threshold_of, with_frames
from napari_emdl.atoms.find.clean import Clean, is_blank
from napari_emdl.atoms.find.completing import with_unit_cells
from napari_emdl.atoms.find.equivalent import pooled_scores
from napari_emdl.atoms.find.expected import ThresholdRule, always
from napari_emdl.atoms.find.flaws import COUNTED_BY_FINDERS
from napari_emdl.atoms.find.networktiles import TiledNetwork
from napari_emdl.atoms.find.prepared import Preparation, Prepared, digest_of
from napari_emdl.atoms.find.resample import Grid
from napari_emdl.atoms.find.strays import without_strays
from napari_emdl.atoms.find.sublattices import SublatticeStep, species_mass
from napari_emdl.atoms.find.tiles import Tile, cut, in_core, quartered
from napari_emdl.base.caveats import DEVICE, Caveats
from napari_emdl.base.errors import EmdlError, ModelError
from napari_emdl.base.peaks import PeakTable
from napari_emdl.jobs.control import Control
from napari_emdl.jobs.executor import available_cores
from napari_emdl.models.registry import Model
from napari_emdl.models.session import Session
from napari_emdl.workflow.finder import FinderInfo

FIELDS = ("row", "col", "score", "sigma_px", "species", "intensity", "logit")
#: candidates below this score are not kept
FLOOR = 0.02
#: larger frames are cut into tiles of so many pixels of the network: memory does not grow with the frame. The network lists
#: 12,288 candidates of a tile at most; a tile that holds more is cut again
TILE_PX = 2048


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
    mode
        "hrtem", "stem" or "auto".
    counts
        Frames behind the means of the near and of the far neighbours, for networks that take them: `find` is then given frames
        as (n, 3, rows, cols), see `neighbours.with_neighbours`. Single frames (n, rows, cols) may be given all the same.
    preparation
        Of another finder of this network and pixel size, whose frames need not be prepared again.

    Raises
    ------
    ModelError
        When the network does not fit the contract.
    """

    method = "network"
    parallel = False
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
        mode: str = "auto",
        counts: tuple[int, int] = (0, 0),
        pooled: bool = False,
        preparation: Preparation | None = None,
    ) -> None:
        self.session = session or Session(model, device, threads)
        self.session.require(("image", "conditions"), ("candidates", "logit"))
        self.model, self.pixel_A, self.contrast = model, float(pixel_A), contrast
        self.threads = self.session.threads or available_cores()
        facts = model.card.config.emdl
        extra: dict[str, Any] = facts.model_extra or {}
        if facts.pixel_A is None:
            raise ModelError(f"{model.name}: the card does not tell pixel_A, the pixel size the network works at")
        self.species: tuple[str, ...] = tuple(facts.species or ("column",))
        self.images = int(extra.get("images", 1))
        self.neighbours = bool(extra.get("neighbours", False))
        self.channels = 3 if self.neighbours else self.images
        self.counts = counts
        self.margin_px = int(extra.get("margin_px", 160))
        self.stride = int(extra.get("stride", 2))
        self.tiled = TiledNetwork(self.session, self.stride, self.margin_px, int(extra.get("multiple", 16)), tile_px, batch)
        low, high = facts.ranges.get("pixel_A", (facts.pixel_A, facts.pixel_A))
        self.network_A = self.pixel_A if low <= self.pixel_A <= high else facts.pixel_A
        self.min_spacing_A = min_spacing_A
        self.default_min_score = threshold_of(facts.default_min_score, contrast)
        self.threshold = ThresholdRule(**extra["threshold"]) if "threshold" in extra else always(self.default_min_score)
        self.expected_columns, self.passing, self.best_score = 0.0, 0.0, 0.0
        #: columns a frame as bright and as dark, where it is not sure which they are
        self.readings: dict[str, float] = {}
        #: what spoke for the contrast, where it was chosen
        self.contrast_evidence: dict[str, Any] = {}
        self._sampled: dict[bytes, dict[str, NDArray[Any]]] = {}
        #: flaws of frames that were searched
        self._flaws: dict[bytes, set[str]] = {}
        self.layout = extra.get("conditions", {})
        self.conditions = encode_conditions(self.layout, contrast, known or {}, self.network_A, mode)
        self.mode = mode
        self.reverse_foci = reverse_foci
        self.preparation = preparation or Preparation(self.network_A, self.channels, self.neighbours, self.threads)
        self.sublattices = SublatticeStep.of(model)
        #: scores in doubt are decided by the places that the crystal makes equivalent
        self.pooled = pooled and self.sublattices is None
        #: weak sublattices are looked for in the unit cells; frames in which that changed something
        self.completes = contrast != "unknown" and len(self.species) == 1 and (self.neighbours or self.images == 1)
        self.completed_frames = 0
        self.fields = FIELDS + (("lattice_evidence",) if self.sublattices else ())
        self.caveats = outside_range(facts.ranges, self.pixel_A)

    @property
    def info(self) -> FinderInfo:
        """What runs, and what the user should know of it."""
        caveats = self.caveats + Caveats([self.session.note], DEVICE)
        told_apart = self.sublattices.description if self.sublattices else ""
        return FinderInfo(self.method, self.model.name, self.model.sha256, self.session.provider, caveats, told_apart)

    def find(self, frames: NDArray[Any], control: Control | None = None) -> PeakTable:
        """Columns of frames (n, rows, cols), (n, foci, rows, cols) for a network that takes a focal series, or (n, 3, rows,
        cols) with the means of neighbours."""
        stack = self._checked(frames)
        digests = [digest_of(image) for image in stack]
        tables = [self._sampled.get(self._key(digest)) for digest in digests]
        missing = [k for k, fields in enumerate(tables) if fields is None]
        if missing:
            searched = self._search(stack[missing], [digests[k] for k in missing], control)
            for k, fields in zip(missing, searched, strict=True):
                tables[k] = fields
        found = [fields for fields in tables if fields is not None]
        table = PeakTable.from_lists(found) if found else PeakTable.empty((0,), self.fields)
        flaws = [name for digest in digests for name in self._flaws.get(self._key(digest), ())]
        table.attrs.update({name: flaws.count(name) for name in COUNTED_BY_FINDERS})
        return table

    def _search(self, stack: NDArray[Any], digests: list[bytes], control: Control | None) -> list[dict[str, NDArray[Any]]]:
        """Fields of every frame."""
        grid = Grid.scaled(stack.shape[-2:], self.pixel_A / self.network_A)
        prepared = self.preparation(stack, grid, digests)
        images, told = prepared.images, self._told(prepared)
        for digest, clean in zip(digests, prepared.clean, strict=True):
            if clean[0] is not None and clean[0].flaws:
                self._flaws[self._key(digest)] = set(clean[0].flaws)
        found: list[list[NDArray[np.float32]]] = [[] for _ in stack]
        maps = self.tiled.empty_maps(len(stack), grid)
        left = list(reversed(self._tiles(images, told, grid, control)))
        while left:
            tile = left.pop()
            outputs = self.tiled.run(cut(images, tile), told, ("candidates", "logit"), control)
            full = outputs["candidates"][:, :, 2].min(axis=1) >= FLOOR  # no place was left for more
            if full.any() and (smaller := quartered(tile, grid.shape, self.margin_px, self.tiled.multiple)):
                left += smaller
                continue
            self.tiled.paste(maps, outputs["logit"], tile)
            for index, (candidates, logit) in enumerate(zip(outputs["candidates"], outputs["logit"], strict=True)):
                if full[index]:
                    self._flaws.setdefault(self._key(digests[index]), set()).add("crowded_frames")
                if self.sublattices:
                    candidates = np.c_[candidates, species_mass(logit, candidates[:, :2], self.stride)]
                found[index].append(in_core(candidates, tile))
        for digest, values in zip(digests, maps, strict=True):
            map_cache.shared.put(self._key(digest), values)
        empty = {n: np.zeros(0, np.int16 if n == "species" else np.float32) for n in self.fields}
        return [
            empty if is_blank else self._columns(np.concatenate(parts), grid, image, clean)
            for parts, image, clean, is_blank in zip(found, stack, prepared.clean, prepared.blank, strict=True)
        ]

    def _tiles(self, images: NDArray[np.float32], told: NDArray[np.float32], grid: Grid, control: Control | None) -> list[Tile]:
        """Tiles of frames; quarters where a part in the middle shows more candidates than the list of a whole tile takes."""
        tiles = self.tiled.tiles(grid.shape)
        if len(tiles) == 1:
            return tiles
        middle = self.tiled.middle(grid.shape)
        listed = self.tiled.run(cut(images, middle), told, ("candidates",), control)["candidates"][:, :, 2]
        density = (listed >= FLOOR).sum(axis=1).max() / np.prod(middle.size)
        parts: list[Tile] = []
        for tile in tiles:
            crowded = density * np.prod(tile.size) > listed.shape[1]
            smaller = quartered(tile, grid.shape, self.margin_px, self.tiled.multiple) if crowded else []
            parts += smaller or [tile]
        return parts

    def choose_threshold(self, frames: NDArray[Any], control: Control | None = None) -> float:
        """Let the scores of some frames choose the default threshold, where the card allows it; returns the expected F1.

        What was found is kept, so that these frames are not searched again.
        """
        stack = self._checked(frames)
        digests = [digest_of(image) for image in stack]
        tables = self._search(stack, digests, control)
        self._sampled = {self._key(digest): fields for digest, fields in zip(digests, tables, strict=True)}
        scores = np.concatenate([fields["score"] for fields in tables])
        self.expected_columns = float(np.sum(scores)) / max(1, len(tables))
        threshold, f1 = self.threshold.choose(scores, any(self.counts))
        self.default_min_score = round(threshold, 3)
        self.passing = float(np.count_nonzero(scores >= threshold)) / max(1, len(tables))
        self.best_score = float(np.max(scores, initial=0.0))
        if not self.pooled and not self.completed_frames:
            self.completes = False  # the other frames of a movie show the same crystal
        return f1

    @property
    def sampled_spots(self) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Positions (n, 2) and scores (n,) of all candidates of the frames that chose the threshold."""
        return [(np.stack([f["row"], f["col"]], -1), f["score"]) for f in self._sampled.values()]

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

    def _key(self, digest: bytes) -> bytes:
        """What the map of a frame depends on."""
        about = f"{self.model.sha256}|{self.pixel_A}|{self.network_A}|{self.tiled.tile_px}|{self.counts}"
        return hashlib.blake2b(about.encode() + self.conditions.tobytes() + digest, digest_size=16).digest()

    def bright_probability(self, frames: NDArray[Any], control: Control | None = None) -> float:
        """Chance that columns are bright, by the network's own probe, over all frames; 0.5 when they are all blank.

        The probe looks at the part of a frame that holds most columns: it was fitted to such, not to wide vacuum.
        """
        stack = self._checked(frames)
        grid = Grid.scaled(stack.shape[-2:], self.pixel_A / self.network_A)
        prepared = self.preparation(stack, grid, [digest_of(image) for image in stack])
        told = self._told(prepared)
        maps = self.tiled.glance(
            lambda tile: self.tiled.run(cut(prepared.images, tile), told, ("logit",), control)["logit"], prepared.blank, grid
        )
        if maps is None:
            maps, _ = self._logit_maps(stack, grid, control)
        logits = []
        for index in np.flatnonzero(~prepared.blank):
            part = cut(prepared.images[index : index + 1], self.tiled.densest(maps[index], grid.shape))
            logits.append(float(self.tiled.run(part, told[index : index + 1], ("contrast",), control)["contrast"][0, 0]))
        return float(expit(np.mean(logits))) if logits else 0.5

    def _logit_maps(
        self, stack: NDArray[Any], grid: Grid, control: Control | None
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Maps of frames, from the memory where they are still there, and which frames are blank."""
        maps = self.tiled.empty_maps(len(stack), grid)
        blank = np.array([is_blank(images[:1] if self.neighbours else images) for images in stack])
        digests = [digest_of(images) for images in stack]
        keys = [self._key(digest) for digest in digests]
        known = [map_cache.shared.get(key) for key in keys]
        missing = [i for i, values in enumerate(known) if values is None and not blank[i]]
        for index, values in enumerate(known):
            if values is not None:
                maps[index] = values
        if missing:
            prepared = self.preparation(stack[missing], grid, [digests[i] for i in missing])
            images, told = prepared.images, self._told(prepared)
            fresh = self.tiled.empty_maps(len(missing), grid)
            for tile in self.tiled.tiles(grid.shape):
                self.tiled.paste(fresh, self.tiled.run(cut(images, tile), told, ("logit",), control)["logit"], tile)
            for index, values in zip(missing, fresh, strict=True):
                # through half precision as well: the same evidence whether it was remembered or not
                maps[index] = values.astype(np.float16)
                map_cache.shared.put(keys[index], values)
        return maps, blank

    def _checked(self, frames: NDArray[Any]) -> NDArray[Any]:
        """(n, images, rows, cols), or a clear line."""
        stack = np.asarray(frames)
        if stack.ndim == 3:
            stack = stack[:, None]
        if stack.ndim != 4 or stack.shape[1] not in {self.images, self.channels if any(self.counts) else self.images}:
            has = stack.shape[1] if stack.ndim == 4 else stack.ndim
            raise EmdlError(
                f"model {self.model.name} takes {self.images} image(s) a field of view, the data has {has}: "
                "choose another model"
            )
        return stack[:, ::-1] if self.reverse_foci else stack

    def _told(self, prepared: Prepared) -> NDArray[np.float32]:
        """Conditions (n, k) of prepared frames."""
        conditions = np.repeat(self.conditions[None], len(prepared.images), 0)
        if self.neighbours:
            for index, (_, near, far) in enumerate(prepared.present):
                conditions[index] = with_frames(self.conditions, self.layout, (self.counts[0] * near, self.counts[1] * far))
        return conditions

    def _columns(
        self, candidates: NDArray[np.float32], grid: Grid, images: NDArray[Any], clean: Sequence[Clean | None]
    ) -> dict[str, NDArray[Any]]:
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
        own = images[0] if self.neighbours or len(images) == 1 else np.asarray(images, np.float32).mean(0)
        values = np.nan_to_num(ndi.map_coordinates(own, points.T, order=1, mode="nearest", output=np.float32))
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
        if self.pooled:
            columns["score"] = pooled_scores(points, columns["score"].astype(float), self.threads).astype(np.float32)
        if self.completes:
            columns, changed = with_unit_cells(columns, clean, self.counts, self.contrast, self.pooled, self.threads)
            self.completed_frames += changed
        if self.pooled:
            places = np.stack([columns["row"], columns["col"]], -1).astype(float)
            columns["score"] = without_strays(places, columns["score"].astype(float)).astype(np.float32)
        return _in_the_image(columns, clean[0])


def _in_the_image(columns: dict[str, NDArray[Any]], clean: Clean | None) -> dict[str, NDArray[Any]]:
    """Columns where a frame holds an image: not in borders, gaps and marks."""
    if clean is None or clean.hidden is None:
        return columns
    last = np.array(clean.hidden.shape) - 1
    places = np.clip(np.rint(np.stack([columns["row"], columns["col"]], -1)).astype(int), 0, last)
    shown = ~clean.hidden[tuple(places.T)]
    return {name: values[shown] for name, values in columns.items()}


def _apart(points: NDArray[np.float64], spacing_px: float) -> NDArray[np.int64]:
    """Indices of points, best first, that keep `spacing_px` from all better ones."""
    keep = np.ones(len(points), bool)
    for a, b in sorted(cKDTree(points).query_pairs(spacing_px)) if len(points) else ():
        if keep[a] and keep[b]:
            keep[max(a, b)] = False
    return np.flatnonzero(keep)
