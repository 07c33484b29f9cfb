"""
A network of your own
=====================

Any ONNX network that turns an image into one map a class can find columns: from AtomAI, PyTorch, Keras, or written by
hand as here. ``models add`` tries it, writes its card, and wraps scaling, tiles, maxima, sub-pixel positions and the
threshold around it.
"""

# sphinx_gallery_thumbnail_path = 'images/hrtem_columns_sample.png'

import os
import tempfile
from pathlib import Path

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper, save

import napari_emdl as emdl
from napari_emdl.samples.atoms import blinking_movie

folder = Path(tempfile.mkdtemp())
os.environ["XDG_DATA_HOME"] = str(folder)  # this tutorial leaves your own folder of networks alone (Linux)

# %%
# A small network
# ---------------
#
# One convolution and a sigmoid: a matched filter for spots of 0.6 Å. A trained U-Net has the same input and output:
# (batch, 1, rows, cols) in, one map a class out. In PyTorch: ``torch.onnx.export(net, image, "net.onnx",
# dynamic_axes=...)``.

offsets = np.arange(-8, 9)
r = np.hypot(*np.meshgrid(offsets, offsets, indexing="ij"))
spot = np.exp(-0.5 * (r / 3.5) ** 2) - 0.45 * np.exp(-0.5 * (r / 7.0) ** 2)
spot -= spot.mean()
weights = numpy_helper.from_array((14 * spot / np.abs(spot).sum())[None, None].astype(np.float32), "w")
bias = numpy_helper.from_array(np.array([-2.2], np.float32), "b")
nodes = [
    helper.make_node("Conv", ["image", "w", "b"], ["logit"], kernel_shape=[17, 17], pads=[8] * 4),
    helper.make_node("Sigmoid", ["logit"], ["map"]),
]
shape = ["n", 1, "rows", "cols"]
graph = helper.make_graph(
    nodes,
    "matched_filter",
    [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
    [helper.make_tensor_value_info("map", TensorProto.FLOAT, shape)],
    [weights, bias],
)
network = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
checker.check_model(network)
save(network, folder / "spots.onnx")

# %%
# Add it
# ------
#
# The network is judged before it runs (standard operators, no data outside its folder) and tried once; what it gives
# becomes the test tensors. On the command line::
#
#     napari-emdl models add spots.onnx --task columns --pixel-size "0.12 Å" --contrast bright --scaling standard
#
# The same from Python, through the same command:

from napari_emdl.cli.app import main

command = ["models", "add", str(folder / "spots.onnx"), "--task", "columns", "--pixel-size", "0.12 Å"]
status = main([*command, "--contrast", "bright", "--scaling", "standard"])
assert status == 0

# %%
# Use it
# ------
#
# By name, in every command and panel.

movie, truth = blinking_movie((6, 224, 224))
columns = emdl.find_columns(movie, model="spots", contrast="bright")
print(columns.attrs["note"])
columns.show(2)

# %%
# Compare it
# ----------
#
# Against the shipped network and the classical finder, on the same frames. The sample knows its columns; on your own
# data look at pictures.


def f1_of(table: emdl.PeakTable) -> float:
    """F1 at the table's threshold, columns matched within 0.5 Å."""
    from scipy.spatial import cKDTree

    kept = table.filter(min_score=table.attrs["default_min_score"])
    hits = columns_there = 0
    for t in range(movie.n_frames):
        true = (truth.sites_px + truth.drift_px[t])[truth.occupied[t]]
        place = np.stack([kept[t]["row"], kept[t]["col"]], axis=1)
        distance, nearest = cKDTree(true).query(place) if len(place) else (np.zeros(0), np.zeros(0, int))
        hits += len(set(nearest[distance < 0.5 / 0.12].tolist()))
        columns_there += len(true)
    return 2 * hits / (columns_there + kept.n_peaks)


for name, model in (("matched filter", "spots"), ("shipped network", None), ("Laplacian of Gaussian", "log")):
    table = emdl.find_columns(movie, model=model, contrast="bright", frames="1")
    print(f"{name}: F1 {f1_of(table):.3f}")

# %%
# A network like this says nothing of its own error: ``sigma_px`` is a constant 0.3 px of its map, and the result says
# so. Take it back with its folder, which ``napari-emdl models list`` shows.
