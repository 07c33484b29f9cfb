"""What the diffusion panel says of a result: the legend of its marks, and what was found in a line."""

from __future__ import annotations

from napari_emdl.atoms.fit.result import Occupancy
from napari_emdl.atoms.fit.sites import GROUPS
from napari_emdl.atoms.judge.compare import WEAK_SEPARATION
from napari_emdl.gui.atoms.sites import ARRIVES_COLOUR, GROUP_COLOURS, LEAVES_COLOUR
from napari_emdl.gui.kit.wording import worth_telling


def group_legend(occupancy: Occupancy) -> str:
    """Outline colours of the groups that are there, and the event markers."""
    parts = [
        (GROUP_COLOURS[name], "◯", f"{name} {int((occupancy.groups == code).sum())}")
        for code, name in enumerate(GROUPS)
        if (occupancy.groups == code).any()
    ]
    marks = [(ARRIVES_COLOUR, "▲", "appears"), (LEAVES_COLOUR, "▼", "vanishes")]
    return "<br>".join(" ".join(_mark(*part) for part in line) for line in (parts, marks))


def _mark(colour: str, mark: str, text: str) -> str:
    """A mark in its colour with its words, which a line never parts."""
    return f'<span style="color:{colour}">{mark}</span>&nbsp;{text.replace(" ", "&nbsp;")}'


def summary(occupancy: Occupancy) -> str:
    """What was found, in a line, with its caveats."""
    facts = f"{occupancy.n_sites} sites in {occupancy.n_frames} frames, {len(occupancy.events)} events"
    separation = occupancy.attrs.get("separation")
    if separation:
        facts += f"; occupied and empty {separation:.1f} sigma apart"
    weak = ["⚠ This is little: rates and events are uncertain"] if separation and separation < WEAK_SEPARATION else []
    return ". ".join(text[:1].upper() + text[1:] for text in (facts, *weak, *worth_telling(occupancy).texts))
