"""Progress bars of long functions in a Jupyter notebook, where nobody passed a control."""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from napari_emdl.jobs.control import Control, Progress

P = ParamSpec("P")
R = TypeVar("R")


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    interactive = sys.modules.get("IPython")
    shell = interactive.get_ipython() if interactive is not None else None
    return type(shell).__name__ == "ZMQInteractiveShell"


def with_progress(title: str, unit: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Show a bar in a notebook while the function runs, unless its caller passes ``control``."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def shown(*args: P.args, **kwargs: P.kwargs) -> R:
            if kwargs.get("control") is not None or not in_notebook():
                return function(*args, **kwargs)
            bar = _bar(title, unit)
            if bar is None:
                return function(*args, **kwargs)
            try:
                kwargs["control"] = Control(lambda progress: _update(bar, title, progress))
                return function(*args, **kwargs)
            finally:
                bar.close()

        return shown

    return decorate


def _bar(title: str, unit: str) -> Any:
    try:
        from tqdm.auto import tqdm
    except ImportError:
        logging.getLogger("napari_emdl").info("progress bars need tqdm: pip install 'napari-emdl[notebook]'")
        return None
    return tqdm(desc=title, unit=f" {unit}", total=None)


def _update(bar: Any, title: str, progress: Progress) -> None:
    if bar.total != progress.total and progress.total:
        bar.reset(progress.total)
    bar.n = progress.done
    bar.set_description_str(progress.message or title, refresh=False)
    bar.refresh()
