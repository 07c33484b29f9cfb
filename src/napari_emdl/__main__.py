"""``python -m napari_emdl`` is ``napari-emdl``."""

import sys

from napari_emdl.cli import main

sys.exit(main())
