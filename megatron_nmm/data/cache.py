"""A least-recently-used store of decoded images, bounded in bytes and shared by the reading threads."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock

from megatron_nmm.data.decoders.protocol import Pixels


class PixelCache:
    """Keeps at most ``limit`` bytes of pixels; images above ``largest`` bytes pass through."""

    def __init__(self, limit: int, largest: int) -> None:
        self._limit = limit
        self._largest = largest
        self._lock = Lock()
        self._items: OrderedDict[Hashable, Pixels] = OrderedDict()
        self._bytes = 0

    def keeps(self, size: int) -> bool:
        """Whether an image of ``size`` bytes of pixels is kept."""
        return size <= self._largest

    def get(self, key: Hashable, make: Callable[[], Pixels]) -> Pixels:
        """The pixels under ``key``, made outside the lock when they are not there. Not to be written to."""
        with self._lock:
            if key in self._items:
                self._items.move_to_end(key)
                return self._items[key]
        pixels = make()
        if self.keeps(pixels.nbytes):
            self._keep(key, pixels)
        return pixels

    def _keep(self, key: Hashable, pixels: Pixels) -> None:
        with self._lock:
            if key in self._items:
                return
            self._items[key] = pixels
            self._bytes += pixels.nbytes
            while self._bytes > self._limit:
                _, dropped = self._items.popitem(last=False)
                self._bytes -= dropped.nbytes
