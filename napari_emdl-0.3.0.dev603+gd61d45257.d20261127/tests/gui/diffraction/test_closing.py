"""How the workspace ends."""

import pytest

from napari_emdl.gui.diffraction.closing import Closing


def test_parts_let_go_in_order_and_once_also_where_one_fails():
    said = []

    def fails():
        said.append("second")
        raise RuntimeError("the viewer is gone")

    closing = Closing()
    closing.steps = (lambda: said.append("first"), fails, lambda: said.append("third"))
    with pytest.raises(RuntimeError, match="the viewer is gone"):
        closing.run()
    assert said == ["first", "second", "third"] and closing.done
    closing.run()
    assert said == ["first", "second", "third"]
