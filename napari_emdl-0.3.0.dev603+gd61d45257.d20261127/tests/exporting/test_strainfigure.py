"""Strain figures ready to print: size as asked, what is on them, files of each kind."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from napari_emdl.base.signals import Calibration
from napari_emdl.exporting.strainfigure import FigureStyle, rendered, save_strain_figure, strain_figure


@pytest.fixture
def strain():
    exx = np.linspace(-0.02, 0.02, 48).reshape(6, 8)
    exx[0, 0] = np.nan
    known = SimpleNamespace(calibration=Calibration(pixel_nm=(1.5, 1.5), qr_rotation_rad=0.0))
    maps = {"exx": exx, "eyy": exx / 2, "exy": exx / 4, "theta_rad": exx}
    return SimpleNamespace(**maps, shape=exx.shape, axis_deg=0.0, calibration=known, attrs={})


def test_a_figure_is_as_wide_as_asked_and_says_where_its_scale_ends(strain):
    style = FigureStyle(components=("eyy", "theta_rad"), limit_pct=0.5, limit_deg=9.0, width_mm=85, dpi=200, font_pt=7)
    figure = strain_figure(strain, style, reference=(0, 6, 0, 2))
    assert figure.get_figwidth() == pytest.approx(85 / 25.4)
    maps = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title() for axes in maps] == ["$\\varepsilon_{yy}$", "$\\theta$"]
    assert maps[0].images[0].get_clim() == (-0.5, 0.5) and maps[1].images[0].get_clim() == (-9.0, 9.0)
    assert maps[0].images[0].colorbar.extend == "both" and maps[1].images[0].colorbar.extend == "neither"
    assert {text.get_text() for text in maps[0].texts} >= {"x", "y", "2 nm"}
    assert rendered(figure).shape[1] == round(85 / 25.4 * 200)


def test_text_stays_text_in_vector_files_and_a_raster_has_its_resolution(strain, tmp_path):
    style = FigureStyle(components=("exx",), dpi=150, width_mm=60, axes=False, scale_bar=False)
    save_strain_figure(tmp_path / "a.svg", strain, style)
    assert "<text" in (tmp_path / "a.svg").read_text(encoding="utf-8")
    save_strain_figure(tmp_path / "a.pdf", strain, style)
    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")
    save_strain_figure(tmp_path / "a.png", strain, style)
    with Image.open(tmp_path / "a.png") as image:
        assert image.size[0] == round(60 / 25.4 * 150)
