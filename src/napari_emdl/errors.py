"""The errors a script may catch. They live in :mod:`napari_emdl.base.errors`; this name is public and stays."""

from napari_emdl.base.errors import Cancelled, DeviceError, EmdlError, JournalError, ModelError, OpenError, OtherJobError

__all__ = ["Cancelled", "DeviceError", "EmdlError", "JournalError", "ModelError", "OpenError", "OtherJobError"]
