"""Blocks, progress, cancel, checkpoint and resume; executors."""

from napari_emdl.jobs.control import Control, Progress

__all__ = ["Control", "Progress"]
