"""How well patterns and images of atoms are told apart: shares of simulated ones of held-out specimens.

python -m napari_emdl.training.recognising LIBRARY.h5 WAVES_FOLDER [WAVES_FOLDER ...] [--each 20]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from napari_emdl.diffraction.find.recognise import look_at
from napari_emdl.samples.nothing import KINDS, patterns_of
from napari_emdl.training.atoms.config import read_config
from napari_emdl.training.atoms.mixture import Bank, MixedSampler
from napari_emdl.training.atoms.waves import load
from napari_emdl.training.diffraction.conditions import CONDITIONS
from napari_emdl.training.diffraction.library import read_library
from napari_emdl.training.diffraction.render import draw_patterns

SEED = 9
CONFIG = Path(__file__).parent / "configs" / "columns_mixed.yaml"


class RecordedSampler(MixedSampler):
    """Keeps images as the camera gives them, before they are normalised."""

    recorded: list[NDArray[np.float32]]

    def _finished(self, image: torch.Tensor, *facts: Any) -> Any:
        self.recorded = [*getattr(self, "recorded", []), *image[:, 0].numpy()]
        return super()._finished(image, *facts)


def pictures(library: Path, folders: list[Path], each: int) -> Iterator[tuple[str, list[NDArray[Any]]]]:
    """Pictures of every kind: patterns of crystals, images of atoms, patterns without a crystal."""
    runs = read_library([str(library)], validation=True)
    for number, (name, config) in enumerate(CONDITIONS.items()):
        rng, generator = np.random.default_rng([SEED, number]), torch.Generator().manual_seed(SEED)
        yield name, [np.asarray(pattern.counts) for pattern in draw_patterns(runs, config, each, rng, generator)]
    columns = read_config(CONFIG)
    sampler = RecordedSampler(Bank([load(folder, "test") for folder in folders], None), columns, [SEED, 1])
    for kind in ("single", "stem", "negative"):
        sampler.recorded = []
        while len(sampler.recorded) < each:
            sampler.batch(4, (kind,) * 4)
        yield f"images: {kind}", list(sampler.recorded[:each])
    for kind in KINDS:
        yield f"no crystal: {kind}", patterns_of(kind, each, SEED)


def main() -> None:
    """Command line of this module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", type=Path)
    parser.add_argument("waves", type=Path, nargs="+")
    parser.add_argument("--each", type=int, default=20, help="pictures of each kind")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("| kind | called a pattern | called an image |\n|---|---|---|")
    for name, shown in pictures(args.library, args.waves, args.each):
        told = [look_at(picture).kind for picture in shown]
        print(
            f"| {name} | {np.mean([k == 'pattern' for k in told]):.2f} | {np.mean([k == 'image' for k in told]):.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
