"""The histogram of scores says nothing where there are no scores."""

from __future__ import annotations

import numpy as np
import pytest

from napari_emdl.gui.kit.histogram import ScoreHistogram

pytestmark = pytest.mark.gui


def test_without_scores_there_is_no_limit_and_no_axis_to_read(qtbot):
    histogram = ScoreHistogram()
    qtbot.addWidget(histogram)
    axis = histogram.plot.getPlotItem().getAxis("bottom")
    assert not histogram.line.isVisible() and not axis.style["showValues"]
    histogram.set_value(0.3)
    histogram.show_counts(np.linspace(0, 1, 6), np.array([1, 4, 0, 9, 2]), False, 0.3)
    assert histogram.line.isVisible() and axis.style["showValues"]
    np.testing.assert_allclose(histogram.bars.opts["height"], [1, 2, 0, 3, np.sqrt(2)])
    histogram.show_none()  # another datacube
    assert not histogram.line.isVisible() and not np.any(histogram.bars.opts["height"])
    assert histogram.value == 0.3
