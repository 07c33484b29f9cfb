"""Networks that are opened in threads of their own while the caller does something else: onnxruntime lets Python go on."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from pathlib import Path

from napari_emdl.models.registry import Model
from napari_emdl.models.session import Session


class Ahead:
    """Sessions that somebody will ask for soon.

    What is never asked for is dropped with this object. Errors of opening are raised to who asks.
    """

    def __init__(self) -> None:
        self._begun: dict[tuple[Path, str, int | None], Future[Session]] = {}

    def begin(self, model: Model, device: str = "auto", threads: int | None = None) -> None:
        """Start to open a network; the parameters are those of :class:`napari_emdl.models.session.Session`."""
        opened: Future[Session] = Future()

        def work() -> None:
            try:
                opened.set_result(Session(model, device, threads))
            except BaseException as error:
                opened.set_exception(error)

        self._begun[model.folder, device, threads] = opened
        # a daemon: a network that never ends its test must not keep the program from ending
        threading.Thread(target=work, daemon=True, name="emdl-open-network").start()

    def session(self, model: Model, device: str = "auto", threads: int | None = None) -> Session:
        """The session that was begun, once for each; else one opened now.

        Raises
        ------
        DeviceError, ModelError
            As :class:`napari_emdl.models.session.Session` does.
        """
        begun = self._begun.pop((model.folder, device, threads), None)
        return Session(model, device, threads) if begun is None else begun.result()
