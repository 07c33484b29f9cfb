"""Ways to damage a file: by byte, by number, by text, and by entry of an HDF5 file. The same seed damages the same way."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

_NUMBERS = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 40, (1 << 63) - 1)
_BOMBS = (b"[" * 5000, b"{a: " * 3000, b"&a [*a, *a]\n", b"\0" * 4096, b"%n%s" * 100, b"9" * 400)
_HDF5 = (b"\x89HDF",)


def mutate(source: Path, target: Path, rng: random.Random) -> str:
    """Write a damaged copy of `source`; returns how it was damaged."""
    raw = source.read_bytes()
    if b"\x89HDF\r\n\x1a\n" in raw[:1024] and rng.random() < 0.4:
        return _entry(source, target, rng)
    data = bytearray(raw)
    way = rng.choice(["cut", "bits", "head", "head", "blank", "number", "number", "insert", "swap", "text"])
    if way == "cut":
        data = data[
            : rng.choice([rng.randrange(len(data)), max(1, len(data) - rng.randrange(1, 4096)), rng.randrange(1, 2048)])
        ]
    elif way in ("bits", "head"):
        span = len(data) if way == "bits" else min(len(data), rng.choice([64, 256, 1024, 4096]))
        for _ in range(rng.randint(1, 16)):
            data[rng.randrange(span)] ^= 1 << rng.randrange(8)
    elif way == "blank":
        at, count = rng.randrange(len(data)), rng.randint(1, 256)
        data[at : at + count] = bytes([rng.choice([0, 255])]) * len(data[at : at + count])
    elif way == "number":
        at, width = rng.randrange(min(len(data), 8192)), rng.choice([1, 2, 4, 8])
        order = rng.choice(["little", "big"])
        number = (rng.choice(_NUMBERS) & ((1 << 8 * width) - 1)).to_bytes(width, order)  # type: ignore[arg-type]
        data[at : at + width] = number[: len(data[at : at + width])]
    elif way == "insert":
        at = rng.randrange(min(len(data), 4096))
        data[at:at] = rng.choice(_BOMBS)
    elif way == "swap":
        a, b, count = rng.randrange(len(data)), rng.randrange(len(data)), rng.randint(1, 512)
        data[a : a + count], data[b : b + count] = data[b : b + count], data[a : a + count]
    else:
        digits = [i for i in range(min(len(data), 8192)) if 48 <= data[i] <= 57]
        for at in rng.sample(digits, min(len(digits), rng.randint(1, 6))):
            data[at] = rng.choice(b"0123456789-.eE")
    target.write_bytes(bytes(data))
    return way


def _entry(source: Path, target: Path, rng: random.Random) -> str:
    """Damage the content of an HDF5 file that stays in order."""
    import h5py
    import numpy as np

    shutil.copy(source, target)
    with h5py.File(target, "r+") as file:
        names: list[str] = []
        file.visit(names.append)
        if rng.random() < 0.6 and names:
            name = rng.choice(sorted(names))
            shape = (2, 30000, 30000)
            kinds = {
                "gone": None,
                "a number": lambda: file.create_dataset(name, data=5),
                "a text": lambda: file.create_dataset(name, data="text"),
                "empty": lambda: file.create_dataset(name, data=np.zeros(0)),
                "2 x 2": lambda: file.create_dataset(name, data=np.zeros((2, 2))),
                "nothing": lambda: file.create_dataset(name, data=h5py.Empty("f8")),
                "a group": lambda: file.create_group(name),
                "huge": lambda: file.create_dataset(name, (1 << 20, 1 << 20), "f8", chunks=(64, 64)),
                "a bomb": lambda: file.create_dataset(name, shape, "u1", chunks=shape, compression="gzip"),
                "records": lambda: file.create_dataset(name, data=np.zeros(3, [("a", "i4"), ("b", "f8")])),
                "a link": lambda: file.__setitem__(name, h5py.SoftLink("/" + name)),
                "elsewhere": lambda: file.__setitem__(name, h5py.ExternalLink("/etc/hostname", "/x")),
                "stored elsewhere": lambda: file.create_dataset(name, (4, 4, 4, 4), "u1", external=[("/etc/passwd", 0, 256)]),
            }
            kind = rng.choice(list(kinds))
            del file[name]
            make = kinds[kind]
            if make is not None:
                make()
            return f"{name} is {kind}"
        owners = [owner for owner in ("/", *sorted(names)) if len(file[owner].attrs)]
        if not owners:
            return "whole"
        owner = rng.choice(owners)
        key = rng.choice(sorted(file[owner].attrs))
        values = [5, "text", "{", "[]", np.arange(3), np.bytes_(b"\xff\xfe"), -1.5, np.nan, h5py.Empty("f8"), "x" * 30000]
        file[owner].attrs[key] = rng.choice(values)
        return f"attribute {owner}@{key} is another"
