"""Blocks, progress, cancel, checkpoint and resume; executors."""

from napari_emdl.jobs.blockjob import run_block_job
from napari_emdl.jobs.blocks import Block
from napari_emdl.jobs.checkpoint import discard_part, part_path
from napari_emdl.jobs.control import Control, Progress
from napari_emdl.jobs.peakjob import run_peak_job

__all__ = ["Block", "Control", "Progress", "discard_part", "part_path", "run_block_job", "run_peak_job"]
