"""Train the column network for some minutes on a GPU, from and to a checkpoint of at most 16 MiB.

    python scripts/gpu/columns.py --minutes 12 --from CHECKPOINT_OR_MODEL --to columns.pt [--waves 8192] [--workers 14]

The exit waves are simulated first on the GPU (a tenth of the time at most), then worker processes draw images while the GPU
trains. CHECKPOINT is what an earlier run wrote, or the `weights.npz` of a model; without --from training starts from random
weights. `python -m napari_emdl.training.atoms.ship` measures and exports what `--full` wrote.
"""

from __future__ import annotations

import argparse
import queue
import time
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp

from napari_emdl.training.atoms import waves
from napari_emdl.training.atoms.config import ColumnsConfig, read_config
from napari_emdl.training.atoms.export import load_weights
from napari_emdl.training.atoms.mixture import Bank, MixedSampler
from napari_emdl.training.atoms.sampling import Batch
from napari_emdl.training.atoms.train import Trainer, learning_rate, load_bank, simulate_banks

MOST_BYTES = 16 << 20
CONFIG = Path(__file__).parents[2] / "src/napari_emdl/training/configs/columns_mixed.yaml"


def draw(bank: Bank, config: ColumnsConfig, seed: int, out: Any) -> None:
    """Worker: batches without end."""
    torch.set_num_threads(1)
    sampler = MixedSampler(bank, config, [config.seed, seed])
    while True:
        out.put(sampler.batch(config.batch))


class Feeder:
    """Stands in for the sampler: batches of the workers, on the device."""

    def __init__(self, bank: Bank, config: ColumnsConfig, workers: int, device: torch.device, seed: int) -> None:
        self.device, self.rng = device, MixedSampler(bank, config, seed).rng
        context = mp.get_context("fork")
        self.queue = context.Queue(4 * workers)
        self.workers = [
            context.Process(target=draw, args=(bank, config, 1000 * seed + k, self.queue), daemon=True) for k in range(workers)
        ]
        for worker in self.workers:
            worker.start()

    def batch(self, n: int) -> Batch:
        """The next batch."""
        while True:
            try:
                b = self.queue.get(timeout=60)
                break
            except queue.Empty:
                if not any(w.is_alive() for w in self.workers):
                    raise RuntimeError("all workers that draw images have ended") from None
        b.image, b.conditions = b.image.to(self.device), b.conditions.to(self.device)
        return b

    def close(self) -> None:
        """End the workers."""
        for worker in self.workers:
            worker.terminate()


def light_state(trainer: Trainer) -> dict[str, Any]:
    """Network in full, average and moments of the optimiser in half the bytes: under 16 MiB."""

    def half(x: Any) -> Any:
        if isinstance(x, dict):
            return {k: half(v) for k, v in x.items()}
        if isinstance(x, list):
            return [half(v) for v in x]
        return x.to(torch.bfloat16).cpu() if isinstance(x, torch.Tensor) and x.is_floating_point() and x.numel() > 1 else x

    return {
        "config": trainer.config.model_dump_json(), "net": {k: v.cpu() for k, v in trainer.net.state_dict().items()},
        "average": half(trainer.average.state_dict()), "optimiser": half(trainer.optimiser.state_dict()),
        "step": trainer.step, "seconds": trainer.seconds,
    }  # fmt: skip


def take(trainer: Trainer, source: Path) -> None:
    """Go on from a light checkpoint."""
    state = torch.load(source, map_location=trainer.device, weights_only=False)
    full = {k: v.float() if v.is_floating_point() else v for k, v in state["average"].items()}
    trainer.net.load_state_dict(state["net"])
    trainer.average.load_state_dict(full)
    trainer.optimiser.load_state_dict(state["optimiser"])
    trainer.step = state["step"]


def main() -> None:
    """Simulate, train, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=12.0)
    parser.add_argument("--from", dest="source", type=Path)
    parser.add_argument("--to", dest="target", type=Path, default=Path("columns.pt"))
    parser.add_argument("--full", type=Path, help="also write a checkpoint for ship.py")
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--waves", type=int, default=4096)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--workers", type=int, default=12)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tiny", action="store_true", help="banks of eight waves: shows that everything runs")
    parser.add_argument("--work", type=Path, default=Path("gpu_banks"), help="folder of the exit waves")
    a = parser.parse_args()
    began = time.monotonic()
    if a.tiny:
        waves.SHARD, a.waves, a.batch, a.workers = 8, 8, 2, 1
    config = small(read_config(a.config), a.waves, a.work).model_copy(
        update={"batch": a.batch, "seed": a.seed, "device": a.device, "start_from": None, "threads": None, "minutes": a.minutes}
    )
    probe = torch.device("cuda" if a.device != "cpu" and torch.cuda.is_available() else "cpu")
    simulate_banks(config, str(probe))
    print(f"{time.monotonic() - began:.0f} s of simulation on {probe}", flush=True)
    bank = load_bank(config, "train")
    weights = load_weights(a.source)[0].state_dict() if a.source is not None and a.source.suffix == ".npz" else None
    feeder = Feeder(bank, config, a.workers, probe, a.seed)
    trainer = Trainer.new(config, bank, weights)
    if a.source is not None and a.source.suffix != ".npz":
        take(trainer, a.source)
    trainer.sampler = feeder  # type: ignore[assignment]
    left = 60 * a.minutes - (time.monotonic() - began)
    trainer.config.minutes = max(left, 1.0) / 60
    terms: dict[str, float] = {}
    while trainer.progress < 1:
        terms = trainer.train_step()
        if trainer.step % 100 == 0:
            rate = learning_rate(trainer.progress, trainer.step, trainer.config)
            print(f"step {trainer.step}, {trainer.seconds:.0f} s, loss {terms['loss']:.3f}, rate {rate:.2g}", flush=True)
    feeder.close()
    torch.save(light_state(trainer), a.target)
    if a.full is not None:
        torch.save(trainer.state(), a.full)
    size = a.target.stat().st_size
    print(f"step {trainer.step}, loss {terms.get('loss', float('nan')):.3f}: {a.target}, {size / 2**20:.1f} MiB", flush=True)
    if size > MOST_BYTES:
        raise SystemExit("the checkpoint is larger than 16 MiB")


def small(config: ColumnsConfig, count: int, work: Path) -> ColumnsConfig:
    """The training with its banks in `work`, `count` exit waves of each, a sixteenth of that to validate."""

    def moved(d: Any) -> Any:
        return d.model_copy(update={"folder": str(work / d.folder), "train_waves": count, "val_waves": max(count // 16, 8)})

    mix = config.mix.model_copy(
        update={"pairs": moved(config.mix.pairs), "others": [moved(d) for d in config.mix.others]}
    )  # fmt: skip
    return config.model_copy(update={"data": moved(config.data), "mix": mix})


if __name__ == "__main__":
    main()
