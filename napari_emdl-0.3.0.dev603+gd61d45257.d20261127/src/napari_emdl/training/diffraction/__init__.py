"""Simulation, networks, training and ONNX export for Bragg disks (needs the `train` extra)."""
