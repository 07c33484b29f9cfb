"""What finders of both sciences have in common, and the one that follows a cross-hair or a time slider."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from numpy.typing import NDArray

from napari_emdl.base.peaks import PeakTable
from napari_emdl.jobs.control import Control
from napari_emdl.workflow.caveats import Caveats


@dataclass(frozen=True)
class FinderInfo:
    """What a finder says of itself.

    Attributes
    ----------
    method
        Name of the method.
    model, model_sha256
        Network and its checksum; "" for classical methods.
    provider
        Execution provider that really runs.
    caveats
        What the user should know.
    sublattices
        Columns only: how species were told apart; "" when the network says it.
    """

    method: str
    model: str = ""
    model_sha256: str = ""
    provider: str = ""
    caveats: Caveats = field(default_factory=Caveats)
    sublattices: str = ""

    @property
    def network(self) -> dict[str, str]:
        """Model and checksum, as provenance has them."""
        return {"model": self.model, "model_sha256": self.model_sha256}


class Finder(Protocol):
    """Finds peaks in images, of either science; safe to call from several threads.

    Attributes
    ----------
    default_min_score
        Threshold the method recommends.
    """

    default_min_score: float

    @property
    def info(self) -> FinderInfo:
        """What runs, and what the user should know of it."""

    @property
    def parallel(self) -> bool:
        """Whether several blocks at a time are quicker than one; networks fill the machine by themselves."""

    def find(self, images: NDArray[Any], control: Control | None = None) -> PeakTable:
        """Candidates of (n, rows, cols) images over (n,), all above a low floor."""


F = TypeVar("F", bound=Finder)
Place = TypeVar("Place")


@dataclass(frozen=True)
class LiveResult(Generic[Place]):
    """Peaks of one image, found as the user moves.

    Attributes
    ----------
    position
        Scan position or frame.
    table
        Its candidates, of shape (1,).
    info
        What the finder says of itself.
    default_min_score
        Threshold the method recommends.
    seconds
        Time the finder took.
    """

    position: Place
    table: PeakTable
    info: FinderInfo
    default_min_score: float
    seconds: float


class LiveFinder(Generic[F]):
    """Keeps the finder of the last settings: only other settings make a new one. Safe to ask from several threads.

    Parameters
    ----------
    make
        ``make(*args)`` gives the finder.
    """

    def __init__(self, make: Callable[..., F]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._use = threading.Lock()
        self._key: Hashable = None
        self._held: tuple[F, tuple[Any, ...]] | None = None

    def get(self, key: Hashable, *args: Any) -> F:
        """Finder of `args`, which are made into one only when `key` differs from the last; they are kept alive meanwhile."""
        with self._lock:
            if self._held is None or key != self._key:
                self._held = None  # a network is freed before the next is loaded
                self._held = self._make(*args), args
                self._key = key
            return self._held[0]

    def find(
        self, finder: Finder, position: Place, image: NDArray[Any], control: Control, min_score: float | None = None
    ) -> LiveResult[Place]:
        """Candidates of one image; one call at a time.

        Parameters
        ----------
        image
            Pattern (rows, cols), frame (rows, cols) or focal series (foci, rows, cols).
        min_score
            Threshold set by the user, instead of the method's.
        """
        started_s = time.perf_counter()
        with self._use:
            table = finder.find(image[None], control)
        control.check()
        least = finder.default_min_score if min_score is None else min_score
        return LiveResult(position, table, finder.info, float(least), time.perf_counter() - started_s)

    def use(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call ``function(*args)`` while nothing else uses the finder."""
        with self._use:
            return function(*args)
