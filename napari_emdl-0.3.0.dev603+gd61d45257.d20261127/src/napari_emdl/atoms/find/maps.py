"""Maps of frames that were just searched, so that asking for the evidence at the sites does not run the network again."""

from __future__ import annotations

import threading
from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

#: memory for the maps of one process
CACHE_BYTES = 256 << 20


class MapCache:
    """Maps by key, kept in half precision; the oldest go first."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes, self._bytes = most_bytes, 0
        self._maps: OrderedDict[bytes, NDArray[np.float16]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: bytes) -> NDArray[np.float16] | None:
        """The map of a frame, None when it is not there any more."""
        with self._lock:
            return self._maps.get(key)

    def put(self, key: bytes, values: NDArray[np.floating]) -> None:
        """Keep a map."""
        half = values.astype(np.float16)
        with self._lock:
            if key in self._maps or half.nbytes > self.most_bytes:
                return
            self._maps[key] = half
            self._bytes += half.nbytes
            while self._bytes > self.most_bytes:
                self._bytes -= self._maps.popitem(last=False)[1].nbytes


#: shared by all finders of this process
shared = MapCache(CACHE_BYTES)
