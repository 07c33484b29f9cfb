"""Where models are found: shipped in the package, added by the user, or given by path."""

from __future__ import annotations

import re
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import platformdirs

from napari_emdl.base.errors import ModelError
from napari_emdl.models.card import CARD_NAME, Card, Task, file_in, read_card, sha256_of
from napari_emdl.models.onnxfile import check_safe

Source = Literal["shipped", "user", "path"]
_MOST_UNPACKED_BYTES = 1 << 30
_MOST_PACKED = 200  # weights hardly shrink; what unpacks to more is made to fill a disk
_MOST_FILES = 1000


@dataclass(frozen=True)
class Model:
    """A model that passed the checks of its card.

    Attributes
    ----------
    name
        Folder name, by which it is chosen.
    folder
        Where card and network lie.
    card
        Its description.
    source
        "shipped", "user" or "path".
    """

    name: str
    folder: Path
    card: Card
    source: Source

    @property
    def network(self) -> Path:
        """The ONNX file."""
        return self.folder / self.card.weights.onnx.source

    @property
    def sha256(self) -> str:
        """Checksum of the network, compared with the file when the model was found."""
        return self.card.weights.onnx.sha256

    @property
    def info(self) -> dict[str, Any]:
        """What provenance records."""
        return {"name": self.name, "version": self.card.version, "sha256": self.sha256, "source": self.source}


@dataclass(frozen=True)
class Entry:
    """A model folder in a list; `problem` says why it cannot be used, "" when it can."""

    name: str
    folder: Path
    source: Source
    task: str = ""
    description: str = ""
    problem: str = ""


def shipped_folder() -> Path:
    """Models inside the package."""
    return Path(__file__).parent / "shipped"


def user_folder() -> Path:
    """Models the user added."""
    return Path(platformdirs.user_data_dir("napari-emdl", appauthor=False)) / "models"


def load_model(folder: Path, source: Source = "path", name: str | None = None) -> Model:
    """Read the card and check the files of a model folder: sha256, and of networks from elsewhere operators and data they name.

    Raises
    ------
    ModelError
        Saying what is wrong with it.
    """
    return Model(name or folder.resolve().name, folder, _checked(folder, _stamp(folder), source).model_copy(deep=True), source)


def _stamp(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """What changes when a file of a model folder does."""
    try:
        stats = [(file.name, file.stat()) for file in sorted(folder.iterdir())]
    except OSError:
        return ()
    return tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in stats)


@lru_cache(maxsize=32)
def _checked(folder: Path, stamp: tuple[tuple[str, int, int], ...], source: Source) -> Card:
    """Card of a folder whose network was checked; a folder that is as it was (`stamp`) is not checked again."""
    card = _card(folder, stamp)
    network = file_in(folder, card.weights.onnx)
    # networks of the package are as safe as the code beside them; a test looks into them, not every start (10 ms each)
    if source != "shipped":
        check_safe(network)
    return card


@lru_cache(maxsize=32)
def _card(folder: Path, stamp: tuple[tuple[str, int, int], ...]) -> Card:
    """Card of a folder that is as it was."""
    return read_card(folder)


def list_models(task: Task | None = None) -> list[Entry]:
    """All shipped and user models, the unusable ones with the reason."""
    entries = []
    sources: tuple[tuple[Path, Source], ...] = ((shipped_folder(), "shipped"), (user_folder(), "user"))
    for parent, source in sources:
        for folder in sorted(parent.glob("*")) if parent.is_dir() else []:
            if not folder.is_dir() or (not any(folder.glob("*.onnx")) and not (folder / CARD_NAME).exists()):
                continue
            try:
                card = load_model(folder, source).card
                entries.append(Entry(folder.name, folder, source, card.emdl.task, card.description))
            except ModelError as error:
                entries.append(Entry(folder.name, folder, source, problem=str(error)))
    return [entry for entry in entries if task is None or entry.task == task]


def shipped_models(task: Task, fits: Callable[[Card], bool] = lambda card: True) -> list[Model]:
    """Models of the package for a task whose cards fit; what is not as its card says is left out."""
    found = []
    for path in sorted(shipped_folder().glob(f"*/{CARD_NAME}")):
        if f"task: {task}\n" not in path.read_text("utf-8", "replace"):  # reading a card through takes 5 ms
            continue
        try:
            card = _card(path.parent, _stamp(path.parent))
            if card.emdl.task == task and fits(card):
                found.append(load_model(path.parent, "shipped"))
        except ModelError:
            continue
    return found


def find_model(wanted: str | Path, task: Task | None = None) -> Model:
    """Model by name (the user's before the shipped one), or by path of a folder or zip.

    Parameters
    ----------
    wanted
        Name or path.
    task
        What it must be for.

    Raises
    ------
    ModelError
        When there is none, or it is not for this task, or its files are not what its card says.
    """
    model = _find(wanted)
    if task is not None and model.card.emdl.task != task:
        raise ModelError(f"model {model.name} is for {model.card.emdl.task}, not for {task}; see 'napari-emdl models list'")
    return model


def _find(wanted: str | Path) -> Model:
    text = str(wanted)
    if re.fullmatch(r"[\w.-]+", text):
        for parent, source in ((user_folder(), "user"), (shipped_folder(), "shipped")):
            if (parent / text).is_dir():
                return load_model(parent / text, source)  # type: ignore[arg-type]
    path = Path(wanted).expanduser()
    if path.is_dir():
        return load_model(path)
    if path.suffix.lower() == ".onnx" and path.is_file():
        if (path.parent / CARD_NAME).is_file():
            model = load_model(path.parent)
            if model.network.resolve() == path.resolve():
                return model
        raise ModelError(f"{path} has no card; describe it once with 'napari-emdl models add {path}' (`task`)")
    if path.is_file():
        return load_model(_unpacked(path), name=path.stem)
    known = ", ".join(entry.name for entry in list_models()) or "none"
    raise ModelError(f"there is no model {text!r}; there are: {known} (or give the path of a model folder or zip)")


def _unpacked(archive: Path) -> Path:
    """Folder with the content of a model zip, unpacked once into the user's cache."""
    if not zipfile.is_zipfile(archive):
        raise ModelError(f"{archive} is not a model folder, zip or .onnx file")
    cache = Path(platformdirs.user_cache_dir("napari-emdl", appauthor=False)) / "models"
    target = cache / sha256_of(archive)[:24]
    if not target.is_dir():
        try:
            cache.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=cache) as scratch:
                _extract(archive, Path(scratch) / "model")
                (Path(scratch) / "model").rename(target)
        except OSError as error:
            raise ModelError(
                f"cannot unpack {archive.name} into {cache}: {error.strerror or error}; free some space"
            ) from error
        except zipfile.BadZipFile as error:
            raise ModelError(f"{archive.name} is damaged: {error}") from error
    inner = [path.parent for path in target.rglob(CARD_NAME)]
    if len(inner) != 1:
        shutil.rmtree(target, ignore_errors=True)
        raise ModelError(f"{archive.name} holds {len(inner)} files {CARD_NAME}; a model zip holds one")
    return inner[0]


def _extract(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as content:
        size = sum(item.file_size for item in content.infolist())
        if size > min(_MOST_UNPACKED_BYTES, _MOST_PACKED * max(archive.stat().st_size, 1 << 16)):
            raise ModelError(f"{archive.name} unpacks to {size / 1e6:,.0f} MB, which is not a model of this program")
        if len(content.infolist()) > _MOST_FILES:
            raise ModelError(f"{archive.name} holds more than {_MOST_FILES:,} files, which is not a model of this program")
        for item in content.infolist():
            target = (folder / item.filename).resolve()
            if not target.is_relative_to(folder.resolve()):
                raise ModelError(f"{archive.name} wants to write outside its folder ({item.filename}), which is refused")
        content.extractall(folder)


def install(model: Model, name: str | None = None, replace: bool = False) -> Model:
    """Copy a model into the user's folder.

    Raises
    ------
    ModelError
        When the name is taken and `replace` is False, or the folder cannot be written to.
    """
    chosen = name or model.name
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", chosen):
        raise ModelError(f"a model name has letters, digits, '.', '_' and '-' only, not {chosen!r}")
    target = user_folder() / chosen
    if target.exists() and not replace:
        raise ModelError(f"there is a model {chosen!r} already; give another `name`, or `replace` it")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            copy = Path(scratch) / "model"
            shutil.copytree(model.folder, copy)
            load_model(copy)
            if target.exists():
                shutil.rmtree(target)
            copy.rename(target)
    except OSError as error:
        raise ModelError(f"cannot write {target}: {error.strerror or error}") from error
    return load_model(target, "user")
