"""What the documentation says, as text: commands, code spans, tables."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def pages() -> list[Path]:
    """Every page that is written by hand, and the tutorials."""
    written = [
        path for path in sorted((ROOT / "docs").rglob("*.md")) if "generated" not in path.parts and "_build" not in path.parts
    ]
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *written, *sorted((ROOT / "examples").glob("*.py"))]


def text_of(page: Path) -> str:
    """Text of a page; of a tutorial only its comments and its docstring."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".md":
        return text
    return "\n".join(line.lstrip("#")[1:] for line in text.splitlines() if line.startswith("#"))


def blocks(text: str) -> Iterator[str]:
    """Lines of code: indented by four spaces, or between fences."""
    fenced = False
    for line in text.splitlines():
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            yield line.strip()


def spans(text: str) -> list[str]:
    """Code spans."""
    return [one.replace("\\|", "|") for one in re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)]


def commands(text: str) -> list[str]:
    """Command lines of the program, in blocks and in spans, without trailing comments."""
    found = [*blocks(text), *spans(text)]
    lines = [re.sub(r"\s{2,}#.*$", "", line).strip() for line in found]
    return [line for line in lines if re.match(r"napari-emdl\s+\S", line)]


def table_rows(text: str, heading: str) -> list[list[str]]:
    """Cells of the first table below a heading, without its head."""
    below = text.split(heading, 1)[1]
    lines: list[str] = []
    for line in below.splitlines():
        if line.startswith("|"):
            lines.append(line)
        elif lines:
            break
    return [[cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]
