"""Networks as AtomAI users have them: its U-Net and its dilated network, built as in AtomAI and exported by torch.

AtomAI itself is not needed. Layers, their order and the defaults follow ``atomai.nets.fcnn`` (Unet, dilnet) and
``atomai.nets.blocks`` (ConvBlock: convolution, leaky ReLU, batch norm; UpsampleBlock: interpolation, then a 1 x 1 convolution);
images are scaled to 0..1 and the network gives logits, as in ``atomai.predictors.SegPredictor``.
"""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile

import napari_emdl as emdl
from napari_emdl.base.params import ColumnParams
from napari_emdl.base.signals import Movie, in_memory
from napari_emdl.models.add import add_model

torch = pytest.importorskip("torch")
nn = torch.nn

SPACING_PX, PIXEL_A = 16, 0.1


@pytest.fixture(autouse=True)
def own_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("napari_emdl.models.registry.user_folder", lambda: tmp_path / "models")


def conv_block(layers: int, into: int, out: int) -> object:
    parts: list[object] = []
    for number in range(layers):
        parts += [nn.Conv2d(out if number else into, out, 3, 1, 1), nn.LeakyReLU(0.01), nn.BatchNorm2d(out)]
    return nn.Sequential(*parts)


class Upsample(nn.Module):
    def __init__(self, into: int, out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(into, out, 1)

    def forward(self, x: object) -> object:
        return self.conv(nn.functional.interpolate(x, scale_factor=2, mode="bilinear"))


class Unet(nn.Module):
    """As ``atomai.nets.Unet`` with `nb_filters`, layers [1, 2, 2, 3], batch norm, bilinear."""

    def __init__(self, nb_classes: int = 1, nb_filters: int = 8) -> None:
        super().__init__()
        f, n = nb_filters, (1, 2, 2, 3)
        self.c1, self.c2, self.c3 = conv_block(n[0], 1, f), conv_block(n[1], f, 2 * f), conv_block(n[2], 2 * f, 4 * f)
        self.bn = conv_block(n[3], 4 * f, 8 * f)
        self.upsample_block1, self.c4 = Upsample(8 * f, 4 * f), conv_block(n[2], 8 * f, 4 * f)
        self.upsample_block2, self.c5 = Upsample(4 * f, 2 * f), conv_block(n[1], 4 * f, 2 * f)
        self.upsample_block3, self.c6 = Upsample(2 * f, f), conv_block(n[0], 2 * f, f)
        self.px = nn.Conv2d(f, nb_classes, 1)

    def forward(self, x: object) -> object:
        pool = nn.functional.max_pool2d
        c1 = self.c1(x)
        c2 = self.c2(pool(c1, 2, 2))
        c3 = self.c3(pool(c2, 2, 2))
        u3 = self.c4(torch.cat([c3, self.upsample_block1(self.bn(pool(c3, 2, 2)))], dim=1))
        u2 = self.c5(torch.cat([c2, self.upsample_block2(u3)], dim=1))
        return self.px(self.c6(torch.cat([c1, self.upsample_block3(u2)], dim=1)))


class Dilnet(nn.Module):
    """As ``atomai.nets.dilnet`` with fewer layers: a convolution block, dilated blocks at half size, and back."""

    def __init__(self, nb_classes: int = 1, nb_filters: int = 12) -> None:
        super().__init__()
        f = nb_filters
        self.c1, self.c2 = conv_block(2, 1, f), conv_block(2, 2 * f, f)
        self.at1 = nn.Sequential(
            *[
                layer
                for into, d in ((f, 2), (2 * f, 4))
                for layer in (nn.Conv2d(into, 2 * f, 3, 1, d, d), nn.LeakyReLU(0.01), nn.BatchNorm2d(2 * f))
            ]
        )
        self.up1, self.px = Upsample(2 * f, f), nn.Conv2d(f, nb_classes, 1)

    def forward(self, x: object) -> object:
        c1 = self.c1(x)
        u1 = self.up1(self.at1(nn.functional.max_pool2d(c1, 2, 2)))
        return self.px(self.c2(torch.cat([c1, u1], dim=1)))


class ChannelsLast(nn.Module):
    """The layout that tf2onnx gives of a Keras network: (batch, row, col, channel), sigmoid in the graph."""

    def __init__(self, net: object) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: object) -> object:
        return torch.sigmoid(self.net(x.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)


def image(seed: int, shape: tuple[int, int] = (96, 96)) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(counts, heat map, places) of blobs on a slightly disordered square lattice."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.arange(10, n - 9, SPACING_PX) for n in shape), indexing="ij"), -1).reshape(-1, 2)
    places = grid + rng.uniform(-1, 1, grid.shape)
    rows, cols = np.mgrid[: shape[0], : shape[1]]
    blobs = sum(np.exp(-((rows - r) ** 2 + (cols - c) ** 2) / 18) for r, c in places)
    near = sum(((rows - r) ** 2 + (cols - c) ** 2 <= 9).astype(float) for r, c in places)
    return rng.poisson(40 + 60 * blobs).astype(np.float32), np.minimum(near, 1).astype(np.float32), places


_STEPS = 200


@functools.cache
def trained(make: Callable[[int], object], classes: int = 1) -> object:
    """A network trained for some seconds the way AtomAI does: images scaled to 0..1, cross entropy, Adam."""
    torch.manual_seed(1)
    net = make(classes)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    # steps that shrink: the statistics of batch normalisation, which count from here on, settle
    falling = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, _STEPS)
    made = [image(seed, (64, 64)) for seed in range(3)]
    x = torch.tensor(np.stack([(i - i.min()) / np.ptp(i) for i, _, _ in made])[:, None])
    y = torch.tensor(np.stack([m for _, m, _ in made]))
    for _ in range(_STEPS):
        optimizer.zero_grad()
        logits = net(x)
        loss = (
            nn.functional.binary_cross_entropy_with_logits(logits[:, 0], y)
            if classes == 1
            else nn.functional.cross_entropy(logits, (1 - y).long())
        )
        loss.backward()
        optimizer.step()
        falling.step()
    return net.eval()


def export(net: object, path: Path, channels_last: bool = False) -> Path:
    """``torch.onnx.export`` as its documentation says, with batch and image size left open."""
    shape, axes = ((1, 64, 64, 1), {0: "n", 1: "h", 2: "w"}) if channels_last else ((1, 1, 64, 64), {0: "n", 2: "h", 3: "w"})
    torch.onnx.export(
        net, (torch.zeros(shape),), str(path), input_names=["input"], output_names=["output"], opset_version=17,
        dynamic_axes={"input": axes, "output": axes}, dynamo=False,
    )  # fmt: skip
    return path


def movie_of(counts: np.ndarray) -> Movie:
    made = in_memory(counts[None], "movie", emdl.Calibration().override("user", pixel_nm=(PIXEL_A / 10,) * 2))
    assert isinstance(made, Movie)
    return made


def missed_and_false(table: emdl.PeakTable, places: np.ndarray) -> tuple[int, int]:
    shown = table.filter(min_score=table.attrs["default_min_score"])[0]
    got = np.stack([shown["row"], shown["col"]], -1).astype(float).reshape(-1, 2)
    distance = np.linalg.norm(got[:, None] - places[None], axis=-1)
    return int((distance.min(axis=0, initial=9) > 2).sum()), int((distance.min(axis=1, initial=9) > 2).sum())


@pytest.mark.parametrize("kind", ["unet", "dilnet", "two-classes", "keras"])
def test_a_network_exported_as_atomai_users_do_finds_columns(tmp_path: Path, kind: str) -> None:
    classes = 2 if kind == "two-classes" else 1
    net = trained(Dilnet if kind == "dilnet" else Unet, classes)
    path = export(ChannelsLast(net).eval() if kind == "keras" else net, tmp_path / "theirs.onnx", kind == "keras")
    options = {"channels": ["atoms", "background"]} if classes == 2 else {}
    model = add_model(path, task="columns", pixel_A=PIXEL_A, contrast="bright", **options)
    assert model.card.emdl.heatmap is not None
    assert model.card.emdl.heatmap.layout == ("NHWC" if kind == "keras" else "NCHW")
    counts, _, places = image(99, (150, 134))  # no multiple of what the network halves
    table = emdl.find_columns(movie_of(counts), params=ColumnParams(model="theirs", contrast="bright", min_spacing_A=0.8))
    assert missed_and_false(table, places) == (0, 0)


def test_the_same_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export(trained(Unet, 1), tmp_path / "theirs.onnx")
    counts, _, places = image(7, (120, 120))
    tifffile.imwrite(tmp_path / "a.tif", counts[None].astype("u2"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("HOME", str(tmp_path))
    for words in (
        ("models", "add", "theirs.onnx", "--task", "columns", "--pixel-size", "0.1 Å", "--contrast", "bright"),
        ("columns", "a.tif", "-o", "c.h5", "--pixel-size", "0.1 Å", "--model", "theirs", "--contrast", "bright"),
    ):
        done = subprocess.run([sys.executable, "-m", "napari_emdl", *words], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    table = emdl.load(tmp_path / "c.h5")
    assert isinstance(table, emdl.PeakTable) and table.attrs["method"] == "heatmap"
    assert missed_and_false(table, places) == (0, 0)
