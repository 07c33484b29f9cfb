"""What is remembered between starts: small YAML files in the user's configuration folder.

A file that is damaged is nothing remembered.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import yaml

from napari_emdl.base.errors import EmdlError
from napari_emdl.io.outputs import atomic_path

logger = logging.getLogger(__name__)


def remembered_path(name: str) -> Path:
    """File of that name."""
    from platformdirs import user_config_path

    return user_config_path("napari-emdl", appauthor=False) / f"{name}.yaml"


def recall(name: str) -> dict[str, Any]:
    """What was remembered under `name`; empty when there is nothing, or nothing that can be read."""
    path = remembered_path(name)
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        logger.warning("%s cannot be read (%s); starting without it", path, error)
        return {}
    return found if isinstance(found, dict) else {}


def remember(name: str, values: dict[str, Any]) -> None:
    """Remember `values` under `name` for the next start; a folder that cannot be written is logged, it stops no work."""
    try:
        with atomic_path(remembered_path(name)) as temporary:
            temporary.write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), encoding="utf-8")
    except EmdlError as error:
        logger.warning("not remembered: %s", error)
