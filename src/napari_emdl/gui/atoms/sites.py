"""Layers of the diffusion panel: drift-corrected mean image, heatmaps over the sites, event markers of the current frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from napari.layers import Image, Points, Shapes
from napari.utils.color import transform_color
from numpy.typing import NDArray

from napari_emdl.atoms.fit.result import Occupancy
from napari_emdl.atoms.fit.sites import GROUPS
from napari_emdl.atoms.fit.sitetable import occupied_now_pct, site_spacing_px, site_table
from napari_emdl.base.showing import PALETTE
from napari_emdl.gui.atoms.layers import image_space
from napari_emdl.gui.kit.session import not_chosen, tag
from napari_emdl.gui.kit.styles import matplotlib_colormap

GROUP_COLOURS = dict(zip(GROUPS, ("#BBBBBB", PALETTE[0], PALETTE[2], PALETTE[5], "#666666"), strict=True))
ARRIVES_COLOUR = "#2BD46F"
LEAVES_COLOUR = "#FF4D4D"
#: Heatmap, feature it shows, colour map, colour bar's upper end (None: the largest value).
HEATMAPS = {
    "Occupancy": ("occupancy_pct", "viridis", 100.0),
    "Transitions": ("transitions_pct", "inferno", None),
    "This frame": ("now_pct", "viridis", 100.0),
}
#: Disc size in units of the distance between sites: fills the lattice without touching.
DISC_SHARE = 0.78
MARKED_BORDER = 0.2
PLAIN_BORDER = 0.10


class SiteLayers:
    """Mean image, sites and events of one occupancy result; the sites follow the drift when the movie itself is shown."""

    def __init__(self, viewer: Any) -> None:
        self._viewer = viewer
        self.image: Any = None
        self.mean: Any = None
        self.sites: Any = None
        self.events: Any = None
        self.new: Any = None
        self.region: Any = None
        self._occupancy: Occupancy | None = None
        self._heatmap = "Occupancy"
        self._over_movie = False
        self._marked: int | None = None
        self._frame = 0

    def remove(self) -> None:
        """Take the layers out of the viewer and show the movie again."""
        for layer in (self.region, self.new, self.events, self.sites, self.mean):
            if layer is not None and layer in self._viewer.layers:
                self._viewer.layers.remove(layer)
        if self.image is not None and self.image in self._viewer.layers:
            self.image.visible = True
        self.image = self.mean = self.sites = self.events = self.new = self.region = self._occupancy = None
        self._marked = None

    @property
    def mean_image(self) -> NDArray[np.float32] | None:
        """Mean image that is shown, None where there is none."""
        return None if self.mean is None else np.asarray(self.mean.data, np.float32)

    def show_mean(self, image: Any, mean: NDArray[np.float32]) -> None:
        """Show the drift-corrected mean image under the sites."""
        self.image = image
        limits = tuple(np.nanpercentile(mean, (0.5, 99.7)).tolist())
        if limits[0] >= limits[1]:
            limits = (limits[0], limits[0] + 1)
        filled = np.where(np.isfinite(mean), mean, np.nanmedian(mean))
        if self.mean is None or self.mean not in self._viewer.layers:
            self.mean = Image(
                filled, name="mean, drift-corrected", contrast_limits=limits, metadata=tag("mean"), **image_space(image)
            )
            self._add(self.mean)
            self._viewer.layers.move(len(self._viewer.layers) - 1, self._viewer.layers.index(image) + 1)
        else:
            self.mean.data, self.mean.contrast_limits = filled, limits
        self.set_over_movie(self._over_movie)

    def _add(self, layer: Any) -> None:
        """Add a layer, leaving the choice of the active layer as it was."""
        with not_chosen(self._viewer):
            self._viewer.add_layer(layer)

    def show(self, image: Any, occupancy: Occupancy, frame: int) -> None:
        """Show an occupancy result."""
        self.image, self._occupancy = image, occupancy
        if self._marked is not None and self._marked >= occupancy.n_sites:
            self._marked = None
        features = site_table(occupancy)
        size = DISC_SHARE * site_spacing_px(occupancy)
        if self.sites is not None and self.sites in self._viewer.layers and len(self.sites.data) == occupancy.n_sites:
            self.sites.data = self._positions(frame)
            self.sites.features = {**features, "now_pct": occupied_now_pct(occupancy, frame)}
            self.sites.size = size
        else:
            self._make_sites(image, features, size, frame)
        if self.events is None or self.events not in self._viewer.layers:
            self.events = Points(
                np.zeros((0, 2)), name="events", ndim=2, border_width=0.08, border_color="black", metadata=tag("events"),
                **image_space(image),
            )  # fmt: skip
            self.events.events.visible.connect(lambda: self.show_frame(self._frame))
            self._add(self.events)
        self.set_heatmap(self._heatmap)
        self._colour_borders()
        self.set_over_movie(self._over_movie)
        self.show_new([])
        self.show_frame(frame)

    def _make_sites(self, image: Any, features: dict[str, NDArray[Any]], size: float, frame: int) -> None:
        assert self._occupancy is not None
        if self.sites is not None and self.sites in self._viewer.layers:
            self._viewer.layers.remove(self.sites)
        self.sites = Points(
            self._positions(frame),
            name="sites",
            ndim=2,
            features={**features, "now_pct": occupied_now_pct(self._occupancy, frame)},
            size=size,
            border_width=PLAIN_BORDER,
            opacity=0.7,
            antialiasing=1,
            metadata=tag("sites"),
            **image_space(image),
        )
        self._add(self.sites)
        if self.events is not None and self.events in self._viewer.layers:
            self._viewer.layers.move(self._viewer.layers.index(self.events), len(self._viewer.layers))

    def set_heatmap(self, name: str) -> None:
        """Colour the sites by one of :data:`HEATMAPS`."""
        self._heatmap = name
        if self.sites is None:
            return
        feature, colormap, top = HEATMAPS[name]
        values = np.asarray(self.sites.features[feature], float)
        largest = float(np.nanmax(values, initial=0.0)) if len(values) else 0.0
        self.sites.face_color = feature
        self.sites.face_color_mode = "colormap"
        self.sites.face_colormap = matplotlib_colormap(colormap)
        self.sites.face_contrast_limits = (0.0, top if top is not None else max(largest, 1e-3))
        self.sites.face_colorbar.size = (16, 110)
        self.sites.face_colorbar.font_size = 8
        self.sites.face_colorbar.visible = True
        self.sites.name = f"sites: {name.lower()} (%)"

    def set_over_movie(self, over_movie: bool) -> None:
        """Sites over the movie, moving with the drift, or over the mean image."""
        self._over_movie = over_movie or self.mean is None
        if self.image is not None and self.image in self._viewer.layers:
            self.image.visible = self._over_movie
        if self.mean is not None and self.mean in self._viewer.layers:
            self.mean.visible = not self._over_movie

    def show_frame(self, frame: int) -> None:
        """Move the sites with the drift and mark the events of a frame."""
        if self._occupancy is None or self.sites is None or self.sites not in self._viewer.layers:
            return
        positions = self._positions(frame)
        if self._over_movie:
            self.sites.data = positions
        if self._heatmap == "This frame":
            features = self.sites.features.copy()
            features["now_pct"] = occupied_now_pct(self._occupancy, frame)
            self.sites.features = features
            self.sites.refresh_colors()
        self._frame = frame
        # napari slices no hidden layer, so its colours must not change with its length
        if self.events is not None and self.events in self._viewer.layers and self.events.visible:
            here = self._occupancy.events[self._occupancy.events["frame"] == frame]
            self.events.data = positions[here["site"]].reshape(-1, 2)
            self.events.size = 0.45 * site_spacing_px(self._occupancy)
            if len(here):
                colours = np.array([transform_color(c)[0] for c in (LEAVES_COLOUR, ARRIVES_COLOUR)])
                self.events.face_color = colours[here["arrives"].astype(int)]
                self.events.symbol = np.where(here["arrives"], "triangle_up", "triangle_down").tolist()

    def set_background(self, frame: int, over_movie: bool) -> None:
        """Change what lies under the sites."""
        self.set_over_movie(over_movie)
        if self._occupancy is not None and self.sites is not None:
            self.sites.data = self._positions(frame)
        self.show_frame(frame)

    def mark(self, site: int | None) -> None:
        """Show one site as chosen."""
        self._marked = site
        self._colour_borders()

    def to_reference(self, row_px: float, col_px: float, frame: int) -> tuple[float, float]:
        """Drift-corrected place of a point of what is shown."""
        if not self._over_movie or self._occupancy is None:
            return row_px, col_px
        point = self._occupancy.alignment.from_frame(np.array([[row_px, col_px]]), np.array([frame]))
        return float(point[0, 0]), float(point[0, 1])

    def show_new(self, points: Sequence[tuple[float, float]]) -> None:
        """Crosses where sites were added by hand and are not fitted yet."""
        shown = self.new is not None and self.new in self._viewer.layers
        if not points:
            if shown:
                self._viewer.layers.remove(self.new)
            self.new = None
            return
        if not shown:
            self.new = Points(
                np.zeros((0, 2)), name="new sites", ndim=2, symbol="cross", face_color="#FFD23F", metadata=tag("new sites"),
                **image_space(self.image),
            )  # fmt: skip
            self._add(self.new)
        self.new.data = np.array(points)
        if self._occupancy is not None:
            self.new.size = 0.5 * site_spacing_px(self._occupancy)

    def draw_region(self) -> None:
        """Shapes layer to draw a polygon in."""
        self.region = Shapes(
            ndim=2, name="region", edge_color="#FFD23F", edge_width=2, face_color="transparent", metadata=tag("region"),
            **image_space(self.image),
        )  # fmt: skip
        self._viewer.add_layer(self.region)
        self._viewer.layers.selection.active = self.region
        self.region.mode = "add_polygon"

    def sites_in_region(self) -> NDArray[np.bool_] | None:
        """(n,) whether each site lies in a drawn shape, None when nothing is drawn."""
        if self.region is None or self.region not in self._viewer.layers or not len(self.region.data):
            return None
        shape = tuple(int(n) for n in self.image.data.shape[-2:])
        inside = self.region.to_labels(labels_shape=shape) > 0
        place = np.clip(np.rint(self.sites.data).astype(int), 0, np.array(shape) - 1)
        return inside[place[:, 0], place[:, 1]]

    def remove_region(self) -> None:
        """Take the drawn shapes away."""
        if self.region is not None and self.region in self._viewer.layers:
            self._viewer.layers.remove(self.region)
        self.region = None

    def _colour_borders(self) -> None:
        if self.sites is None or self._occupancy is None or not len(self.sites.data):
            return
        colours = np.array([transform_color(GROUP_COLOURS[name])[0] for name in GROUPS])[self._occupancy.groups]
        widths = np.full(len(colours), PLAIN_BORDER)
        if self._marked is not None:
            colours[self._marked] = (1, 1, 1, 1)
            widths[self._marked] = MARKED_BORDER
        self.sites.border_color = colours
        self.sites.border_width = widths

    def _positions(self, frame: int) -> NDArray[np.float64]:
        assert self._occupancy is not None
        return self._occupancy.positions_in_frame(frame) if self._over_movie else self._occupancy.sites_px
