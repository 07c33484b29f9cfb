"""Caveats: what a user should know before trusting a result. One channel from finder and fit to file, panel and terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

#: Key of the caveats in a result's attributes and in its provenance.
KEY = "caveats"
#: What a caveat is about: the network's training range, the input, the device, the fit; "" for anything else.
RANGE, INPUT, DEVICE, FIT = "range", "input", "device", "fit"


@dataclass(frozen=True)
class Caveat:
    """One thing worth knowing.

    Attributes
    ----------
    text
        One line.
    about
        One of the constants of this module, or "".
    """

    text: str
    about: str = ""


class Caveats(tuple[Caveat, ...]):
    """Caveats of one result, in order, each once. Immutable; ``+`` joins, ``str()`` is one line.

    Parameters
    ----------
    items
        Caveats, or texts; empty ones are left out.
    about
        Subject of the texts.
    """

    __slots__ = ()

    def __new__(cls, items: Iterable[Caveat | str | None] = (), about: str = "") -> Caveats:
        kept: dict[str, Caveat] = {}
        for item in items:
            caveat = item if isinstance(item, Caveat) else Caveat(_one_line(item or ""), about)
            if caveat.text:
                kept.setdefault(caveat.text, caveat)
        return super().__new__(cls, tuple(kept.values()))

    def __add__(self, other: Any) -> Caveats:
        return Caveats((*self, *other))

    def __str__(self) -> str:
        return "; ".join(self.texts)

    @property
    def texts(self) -> list[str]:
        """The lines alone."""
        return [caveat.text for caveat in self]

    def about(self, subject: str) -> Caveats:
        """Only those about `subject`."""
        return Caveats(caveat for caveat in self if caveat.about == subject)

    def to_json(self) -> list[dict[str, str]]:
        """For a result's attributes, provenance and ``info --json``."""
        return [{"text": c.text, "about": c.about} if c.about else {"text": c.text} for c in self]

    @classmethod
    def from_json(cls, found: Any) -> Caveats:
        """What :meth:`to_json` made; texts alone are read as well."""
        if isinstance(found, str):
            return cls([found])
        return cls(
            Caveat(_one_line(str(item.get("text", ""))), str(item.get("about", ""))) if isinstance(item, Mapping) else str(item)
            for item in (found if isinstance(found, Iterable) else ())
        )

    @classmethod
    def of(cls, result: Any) -> Caveats:
        """Every caveat of a result, its fit and its provenance; files of earlier versions are understood.

        Parameters
        ----------
        result
            A peak table, strain map, occupancy, comparison or verdict, or the attributes (or finder's info) alone.
        """
        attrs = result if isinstance(result, Mapping) else getattr(result, "attrs", None) or {}
        record = attrs.get("provenance")
        record = record if isinstance(record, Mapping) else {}
        found = cls.from_json(attrs.get(KEY)) + cls.from_json(record.get(KEY))
        found = found + _of_single_channels(attrs, record, found)
        for holder in (result, getattr(result, "evidence", None), getattr(result, "calibration", None)):
            warnings = getattr(holder, "warnings", None)
            if isinstance(warnings, (tuple, list)):
                found = found + cls(warnings, FIT)
        return found


def _of_single_channels(attrs: Mapping[str, Any], record: Mapping[str, Any], known: Caveats) -> Caveats:
    """What finders and fits say each in their own place, as all did until version 0.2: note and warning (texts joined by ";"),
    notes (a list), range_note."""
    outside = Caveats(_parts(record.get("range_note")) + _parts(attrs.get("range_note")), RANGE)
    rest: list[str] = []
    rest += [_one_line(note) for note in attrs.get("notes") or ()]
    for joined in (attrs.get("warning"), attrs.get("note"), record.get("note")):
        said = [*known.texts, *outside.texts, *rest]
        rest += [part for part in _parts(joined) if not any(part in text for text in said)]
    return outside + Caveats(rest)


def _parts(text: Any) -> list[str]:
    return [part for part in _one_line(text).split("; ") if part] if isinstance(text, str) else []


def _one_line(text: str) -> str:
    return " ".join(str(text).split())
