"""Pages made from the program itself when the site is built: options of the command line, parameters, model cards, changelog.

They lie in ``reference/generated`` of the source folder, which git ignores.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from sphinx.application import Sphinx
from sphinx.util import logging

log = logging.getLogger(__name__)
#: What a build can do without -> what is then left out.
OPTIONAL = {
    "torch": "no tutorial needs it; training, which the pages describe, needs the extra 'train'",
    "py4DSTEM": "its files are read and written without it; `make test` holds results against it in its own environment",
}


def cell(text: Any) -> str:
    """Text that fits into a cell of a Markdown table."""
    return str(text).replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def table(header: list[str], rows: list[list[Any]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(cell(value) for value in row) + " |" for row in rows]) + "\n"


def wide_text(rows: str) -> str:
    """A table whose last column is text to read, on a phone as well."""
    return f":::{{container}} wide-text\n\n{rows}\n:::\n"


# Command line


def commands(group: Any, path: tuple[str, ...] = ("napari-emdl",)) -> Iterator[tuple[str, Any]]:
    """Every command of a typer group with its full name."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        elif not command.hidden:
            yield " ".join((*path, name)), command


def named(argument: Any) -> str:
    """An argument as usage lines show it."""
    return argument.metavar or (argument.name or "").upper()


def command_page() -> str:
    """All commands with their arguments and options."""
    import typer

    from napari_emdl.cli.app import app

    parts = [
        "# All options of the command line\n",
        "Made from the program when this site is built. [Command line](../../cli.md) explains the commands.\n",
    ]
    for name, command in commands(typer.main.get_command(app)):
        arguments = [p for p in command.params if p.param_type_name == "argument"]
        options = [p for p in command.params if p.param_type_name == "option" and "--help" not in p.opts]
        usage = " ".join([name, *(named(p) for p in arguments), "[OPTIONS]"])
        parts += [f"## {name}\n", f"{(command.help or '').strip()}\n", f"    {usage}\n"]
        rows = [[f"`{named(p)}`", p.help or ""] for p in arguments]
        for p in options:
            flags = ", ".join(f"`{flag}`" for flag in (*p.opts, *p.secondary_opts))
            takes = f" `{' | '.join(p.metavar.split('|'))}`" if p.metavar and not p.is_flag else ""
            rows.append([f"{flags}{takes}", p.help or ""])
        parts.append(wide_text(table(["option", "meaning"], rows)) if rows else "")
    return "\n".join(parts)


# Parameters


def bounds_of(info: Any) -> str:
    """Bounds of a field, such as "1 to 64"."""
    found = {name: getattr(part, name) for part in info.metadata for name in ("ge", "gt", "le", "lt") if hasattr(part, name)}
    low = found.get("ge", found.get("gt"))
    high = found.get("le", found.get("lt"))
    lower = "" if low is None else f"above {low}" if "gt" in found else f"from {low}"
    upper = "" if high is None else f"below {high}" if "lt" in found else f"to {high}"
    return " ".join(text for text in (lower, upper) if text)


def parameter_page() -> str:
    """All parameter models."""
    from napari_emdl.base import params
    from napari_emdl.cli.options import options_of

    parts = [
        "# All parameters\n",
        "One definition of each parameter feeds the panels, the command line, job files, the Python API, and the provenance "
        "of every result. Made from `napari_emdl.base.params` when this site is built. *Advanced* parameters are folded away "
        "in the panels.\n",
    ]
    models = [
        m for m in vars(params).values() if isinstance(m, type) and issubclass(m, params.Params) and m is not params.Params
    ]
    for model in models:
        flags = {option.path[0]: option.flags[0] for option in options_of(model) if len(option.path) == 1}
        rows = []
        for name, info in model.model_fields.items():
            nested = isinstance(info.default, BaseModel)
            extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
            default = (
                f"see {type(info.default).__name__}" if nested else "" if info.default in (None, "") else f"`{info.default}`"
            )
            text = (info.description or "") + (" *Advanced.*" if extra.get("advanced") else "")
            words = [f"`{name}`", *(f"`{flag}`" for flag in flags.get(name, "").split("/") if flag)]
            values = " ".join(part for part in (default, extra.get("unit") or "") if part)
            rows.append([" ".join(words), ", ".join(part for part in (values, bounds_of(info)) if part), text])
        head = ["parameter, option", "default, bounds", "meaning"]
        parts += [f"## {model.__name__}\n", f"{(model.__doc__ or '').strip()}\n", wide_text(table(head, rows))]
    return "\n".join(parts)


# Model cards

#: Pictures of a network on measured data: name -> (file in images, caption).
OVERLAYS = {
    "fcunet": [("stem-measured.png", "Measured patterns: circles found, crosses the list checked by eye")],
    "disk_refiner": [("stem-measured.png", "Measured patterns: circles found, crosses the list checked by eye")],
    "columns": [
        ("hrtem_columns_pt.png", "Columns in the measured Pt/CeO2 movie"),
        ("hrtem_graphene.png", "Columns in a measured graphene image"),
    ],
}


#: What a reliability plot shows, and on what: name -> text below it. The command stands in reference/networks.md.
RELIABILITY = {
    "disk_glance": "Sigma of a disk against its error, 150 patterns of held-out crystals; the program takes places only.",
    "disk_refiner": "Sigma of a disk against the error it has, 150 patterns of held-out crystals.",
    "columns": "Share of candidates that are columns, by score, and its standard error. Own simulated images, contrast "
    "and pixel size told, every candidate above the floor: 140 HRTEM images of 20 particles in seven regimes, "
    "80 annular dark field, 40 annular bright field. On the diagonal a score is a probability. In HRTEM "
    "scores between .2 and .6 promise too much, in annular bright field too little. Above .8 candidates of "
    "every kind are columns at least as often as they say.",
    "disk_scale": "Left: chance of the radius told, and how often it is within 17 % (a class and a half); right: chance of "
    "a crystal told, and how often there is one. Up to 24 patterns of each of 13 kinds of held-out crystals, "
    "and 24 of each of ten kinds without a crystal. Points of fewer than eight patterns are left out. From a "
    "chance of .7 on the radius is right at least as often as the network says, below less often. Crystals "
    "are there a little more often than it says.",
    "contrast": "Certainty that columns are bright or dark, and how often that is right: left of this network, right of "
    "the probe of `columns`, which decides where it can. 464 held-out images, of which many show hardly a "
    "column; points of fewer than eight are left out. In single HRTEM images a certainty below .8 says "
    "little. So the program calls a contrast sure from 99.2 % (this network) and 98.5 % (the probe) on, and "
    "else says that it is not.",
}


def shown(value: Any) -> str:
    """A leaf of a card as text."""
    if isinstance(value, list):
        return ", ".join(map(shown, value))
    return f"{value:.4g}" if isinstance(value, float) else " ".join(str(value).split())


def is_series(value: Any) -> bool:
    """Whether an entry is a list of entries."""
    return isinstance(value, list) and bool(value) and all(isinstance(one, dict) for one in value)


def tables_of(values: dict[str, Any], path: tuple[str, ...] = ()) -> str:
    """Nested entries as tables: one row for each entry of entries, one line for each single value."""
    series = {name: value for name, value in values.items() if is_series(value)}
    groups = {name: value for name, value in values.items() if isinstance(value, dict)}
    single = [[name, shown(value)] for name, value in values.items() if name not in series and name not in groups]
    rows = {
        name: value for name, value in groups.items() if not any(isinstance(v, dict) or is_series(v) for v in value.values())
    }
    parts = [f"**{' / '.join(path)}**\n"] if path and (single or rows) else []
    if single:
        parts.append(table(["entry", "value"], single))
    if len(rows) > 1 and alike(rows):
        parts.append(joined("", rows))
    else:
        parts += [tables_of(value, (*path, name)) for name, value in rows.items()]
    for name, value in series.items():
        parts += [f"**{' / '.join((*path, name))}**\n", joined("", dict(enumerate(value, 1)))]
    parts += [tables_of(value, (*path, name)) for name, value in groups.items() if name not in rows]
    return "\n".join(parts)


def alike(rows: dict[str, dict[str, Any]]) -> bool:
    """Whether entries have so many names in common that one table holds them."""
    names = {name for value in rows.values() for name in value}
    return len(names) <= 1.5 * min(map(len, rows.values()))


def joined(corner: str, rows: dict[Any, dict[str, Any]]) -> str:
    """Entries with the same names as rows of one table."""
    columns = list(dict.fromkeys(key for value in rows.values() for key in value))
    lines = [[name, *(shown(value[key]) if key in value else "" for key in columns)] for name, value in rows.items()]
    return table([corner, *columns], lines)


def card_page(entry: Any, images: Path) -> str:
    """The card of one shipped network."""
    from napari_emdl.models.card import read_card

    card = read_card(entry.folder)
    emdl = card.config.emdl
    more = emdl.model_extra or {}
    size_MB = (entry.folder / card.weights.onnx.source).stat().st_size / 1e6
    parts = [
        f"# {entry.folder.name}\n",
        f"{card.description}\n",
        f"Version {card.version}, {size_MB:.1f} MB, task `{emdl.task}`, license {card.license}. The same card: "
        f"`napari-emdl models show {entry.folder.name}`.\n",
        "## Trained for\n",
        "The program warns outside these ranges.\n" if emdl.ranges else "",
        table(["condition", "from", "to"], [[name, f"{low:g}", f"{high:g}"] for name, (low, high) in emdl.ranges.items()]),
    ]
    if emdl.limits:
        limits = emdl.limits if isinstance(emdl.limits, list) else [emdl.limits]
        parts += ["## Limits\n", "\n".join(f"- {' '.join(str(line).split())}" for line in limits) + "\n"]
    if emdl.metrics:
        parts += [
            "## Errors by condition\n",
            tables_of(emdl.metrics) if isinstance(emdl.metrics, dict) else f"{emdl.metrics}\n",
        ]
    plot = entry.folder / "reliability.png"
    if plot.exists():
        shutil.copy(plot, images / f"{entry.folder.name}_reliability.png")
        parts += [
            "## Reliability\n",
            f"![Reliability of {entry.folder.name}]({entry.folder.name}_reliability.png)\n",
            RELIABILITY.get(entry.folder.name, "") + "\n",
        ]
    if entry.folder.name in OVERLAYS:
        parts.append("## On measured data\n")
        parts += [f"![{text}](../../../images/{file})\n" for file, text in OVERLAYS[entry.folder.name]]
    if more.get("training"):
        training = more["training"]
        parts += ["## Training\n", tables_of(training) if isinstance(training, dict) else f"{training}\n"]
    return "\n".join(parts)


def write(path: Path, text: str) -> None:
    """Write a page when it changed, so that Sphinx reads it again only then."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def make_pages(app: Sphinx) -> None:
    """Write all generated pages."""
    from napari_emdl.models.registry import list_models

    folder = Path(app.srcdir) / "reference" / "generated"
    write(folder / "cli.md", command_page())
    write(folder / "parameters.md", parameter_page())
    cards = [entry for entry in list_models(None) if entry.source == "shipped"]
    (folder / "models").mkdir(parents=True, exist_ok=True)
    for entry in cards:
        write(folder / "models" / f"{entry.folder.name}.md", card_page(entry, folder / "models"))
    for name in ("CHANGELOG", "CONTRIBUTING"):
        text = (Path(app.srcdir).parent / f"{name}.md").read_text(encoding="utf-8")
        write(folder / f"{name.lower()}.md", text.replace("](docs/", "](/"))


def left_out(app: Sphinx) -> list[str]:
    """What this build leaves out, a line each."""
    lines = [f"without {name}: {text}" for name, text in OPTIONAL.items() if find_spec(name) is None]
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        lines.append("without a display: pictures of windows are those in docs/images (scripts/screenshots.py takes them)")
    if app.config.sphinx_gallery_conf.get("plot_gallery") in ("False", False):
        lines.append("quick build: the tutorials were not executed")
    return lines


def say_left_out(app: Sphinx, error: Exception | None) -> None:
    """Say at the end of a build what it leaves out."""
    for line in left_out(app):
        log.info(line)


#: Files outside docs/ that pages link to -> where the site has them.
OUTSIDE = {
    "../CHANGELOG.md)": "/reference/generated/changelog.md)",
    "../CONTRIBUTING.md)": "/reference/generated/contributing.md)",
}


def link_inside(app: Sphinx, name: str, source: list[str]) -> None:
    """Links to files outside docs/, which a forge can follow, lead to their pages."""
    for link, page in OUTSIDE.items():
        source[0] = source[0].replace(link, page)


def setup(app: Sphinx) -> dict[str, Any]:
    """Hooks of Sphinx."""
    app.connect("builder-inited", make_pages, priority=100)
    app.connect("source-read", link_inside)
    app.connect("build-finished", say_left_out)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
