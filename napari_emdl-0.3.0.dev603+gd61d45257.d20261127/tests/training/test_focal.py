"""Focal series of monolayers: what only their training has, and the shipped network on fields that it has never seen."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (extra: train)")

from napari_emdl.atoms.find.columns import find_columns  # noqa: E402
from napari_emdl.base.signals import in_memory  # noqa: E402
from napari_emdl.models.registry import find_model  # noqa: E402
from napari_emdl.training.atoms.conditions import SIZE  # noqa: E402
from napari_emdl.training.atoms.export import WEIGHTS_NAME, load_weights  # noqa: E402
from napari_emdl.training.atoms.labels import column_loss, make_targets  # noqa: E402
from napari_emdl.training.atoms.multislice import Multislice  # noqa: E402
from napari_emdl.training.atoms.network import ColumnNet  # noqa: E402
from napari_emdl.training.atoms.ship_focal import draw_fields, finders, measure, summary  # noqa: E402
from napari_emdl.training.atoms.structures import CarbonBank  # noqa: E402
from napari_emdl.training.atoms.waves import Mixture, draw_structure, simulate  # noqa: E402


@pytest.fixture(scope="module")
def carbon():
    return CarbonBank(np.random.default_rng(0), 1, 12.0)


@pytest.fixture(scope="module")
def fields(carbon):
    """Three fields of MoS2 at 80 kV and 4,000 e/A2 an image, of seeds that no training has seen."""
    rng = np.random.default_rng(4711)
    mixture = Mixture({"monolayer": 1.0}, {"MoS2": 1.0}, {80.0: 1.0})
    waves = simulate([draw_structure(rng, carbon, mixture, "val") for _ in range(3)], Multislice(grid=240))
    config = load_weights(find_model("columns_mos2_focal").folder / WEIGHTS_NAME)[1]
    imaging = {"C21_A": (0.0, 0.0), "C23_A": (0.0, 0.0), "native_sampling_A": (0.1, 0.1), "sampling_A": (0.1, 0.1)}
    return draw_fields(config, waves, 4000.0, 3, 5, imaging)


def test_mixture_is_what_is_drawn(carbon):
    rng = np.random.default_rng(0)
    mixture = Mixture({"monolayer": 1.0}, {"WSe2": 1.0, "MoS2": 0.0}, {60.0: 2.0, 80.0: 2.0})
    drawn = [draw_structure(rng, carbon, mixture, "train") for _ in range(6)]
    assert {s.meta["element"] for s, _, _ in drawn} == {"WSe2"}
    assert {energy for _, energy, _ in drawn} == {60.0, 80.0}


def test_field_context_starts_as_nothing_and_reaches_everywhere():
    torch.manual_seed(0)
    net = ColumnNet(3, 3, [8, 8, 8, 8], context=True).eval()
    plain = ColumnNet(3, 3, [8, 8, 8, 8]).eval()
    plain.load_state_dict({k: v for k, v in net.state_dict().items() if not k.startswith("context.")})
    image, told = torch.randn(1, 3, 256, 256), torch.zeros(1, SIZE)
    other = image.clone()
    other[..., :32, :32] += 3
    with torch.no_grad():
        assert torch.equal(net(image, told)["logit"], plain(image, told)["logit"])
        # blocks start without FiLM, so let them have some
        for name, value in net.named_parameters():
            if name.startswith("context.2") or "film.weight" in name:
                value.normal_(0, 0.5)
        plain.load_state_dict({k: v for k, v in net.state_dict().items() if not k.startswith("context.")})
        far = [(n(image, told)["logit"] - n(other, told)["logit"])[..., -4:, -4:].abs().max() for n in (plain, net)]
    assert far[0] < 1e-5 < far[1]


def test_species_loss_wants_the_right_species():
    columns = [(np.array([[20.0, 20.0], [44.0, 40.0]]), np.array([0, 1]))]
    t = make_targets(columns, (64, 64), np.array([0.1]), 0.38, 3)
    right = 8 * t.heat - 4
    empty = {"offset": torch.zeros(1, 2, 32, 32), "log_sigma": torch.zeros(1, 1, 32, 32)}
    terms = [
        column_loss({"logit": logit, **empty}, t, 0.5)[1]["species"] for logit in (right, right[:, [1, 0, 2]], 0 * right)
    ]  # fmt: skip
    assert terms[0] < 0.1 < terms[2] < terms[1]
    assert terms[2] == pytest.approx(np.log(3), rel=1e-3)
    assert "species" not in column_loss({"logit": right, **empty}, t)[1]


def test_shipped_network_tells_species_of_unseen_fields(fields):
    found = summary(measure(finders(find_model("columns_mos2_focal")), fields))
    assert found["columns"] > 200
    assert min(found["recall"][:2]) > 0.95 and min(found["class accuracy"][:2]) > 0.95
    assert found["S2 called S1"] <= 0.05


def test_labelling_is_recorded_and_steadies_the_species(fields, tmp_path):
    model = find_model("columns_mos2_focal")
    field = fields[0]
    series = in_memory(np.round(field.series), "focal_series")
    table = find_columns(series, pixel_size_A=field.pixel_A)
    shown = table.filter(min_score=table.attrs["default_min_score"]).at(0)
    assert table.attrs["contrast"] == "unknown", "a focal series shows its contrasts itself"
    assert "labelled as a whole" in table.attrs["sublattices"]
    assert table.attrs["provenance"]["sublattices"] == table.attrs["sublattices"]
    assert np.mean(shown["lattice_evidence"] > 0) > 0.8
    finder = finders(model)(field.pixel_A)
    finder.sublattices, finder.fields = None, finder.fields[:-1]
    alone = finder.find(field.series).filter(min_score=finder.default_min_score).at(0)
    assert "lattice_evidence" not in alone.dtype.names and len(alone) == len(shown)
