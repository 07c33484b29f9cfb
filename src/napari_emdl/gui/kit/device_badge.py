"""Badge that says what really runs the networks, and why not something faster."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QMessageBox, QPushButton, QWidget

from napari_emdl.gui.kit.worker import per_second
from napari_emdl.models.devices import is_warning

_COLORS = {"cuda": "#2e9e5b", "tensorrt": "#2e9e5b", "coreml": "#2e9e5b", "cpu": "#4a6fa5", "": "#7a7a7a"}


class DeviceBadge(QPushButton):
    """Shows the execution provider of the last run; a click lists the devices and what is missing."""

    def __init__(self, parent: QWidget | None = None):
        super().__init__(parent)
        self.setObjectName("device_badge")
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.clicked.connect(self.show_devices)
        self.provider = self.device = ""
        self.note = ""
        self.rate_per_s: float | None = None
        self.show_provider("")

    def show_provider(self, provider: str, note: str = "", rate_per_s: float | None = None) -> None:
        """Show that `provider` ran (such as "CPUExecutionProvider" or "cpu"), `note` why not another, and the rate."""
        self.provider, self.note, self.rate_per_s = provider, note, rate_per_s
        short = provider.removesuffix("ExecutionProvider")
        kind = short.lower().split(" ")[0]
        text = {"cpu": "CPU", "cuda": "CUDA", "none": "nothing ran", "": "no device yet"}.get(kind, short)
        self.device = text
        if rate_per_s and kind != "none":
            text = f"{text} · {per_second(rate_per_s)}" if kind else per_second(rate_per_s)
        self.setText(text + (" ⚠" if is_warning(note) else ""))
        tip = note or ("what really runs; click for all devices" if provider else "nothing has run yet; click for all devices")
        self.setToolTip(f"<qt>{tip}</qt>")
        color = _COLORS.get(kind, _COLORS[""])
        self.setStyleSheet(
            f"QPushButton {{ background: {color}; color: white; border-radius: 8px; padding: 2px 8px; font-weight: bold; }}"
        )

    def device_lines(self) -> list[str]:
        """One line a device: what it is, whether it can be used, and what to do if not."""
        from napari_emdl.models.devices import devices

        return [describe_device(device) for device in devices()]

    def show_devices(self) -> None:
        """List the devices in a message box."""
        box = QMessageBox(self)
        box.setWindowTitle("Devices")
        box.setText("\n\n".join(self.device_lines() + ([self.note] if self.note else [])))
        box.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        box.open()


def describe_device(device: Any) -> str:
    """One entry of ``models.devices.devices()`` as a line."""
    return str(device)
