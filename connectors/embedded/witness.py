"""The witness: how far writes have been acknowledged, kept beside the database.

What must live here: one small file.  What must not: what to do when it contradicts the database (``storage``).

A log that was cut off at its end looks like one that was never longer.  So after each fsync of RocksDB's log, and
before anybody is told, the number of the last write in it goes to this file, which is not part of the database.
At the next open a database that ends before that number has lost acknowledged writes.

The file itself isn't fsynced: after a power failure it may be a little old, and then vouches for a little less.  It
is never ahead of what was synced, so it never raises a false alarm.  Two slots in different sectors are written in
turn; a torn one fails its checksum and the other one counts.
"""

from __future__ import annotations

import os
from struct import Struct
from zlib import crc32

__all__ = ["FILE_NAME", "Witness", "read_witness"]

FILE_NAME = "acknowledged"
_NUMBER = Struct(">Q")
_SUM = Struct(">I")
_SLOTS = (0, 512)
_SIZE_BYTES = 1024


class Witness:
    """The open file.  ``write`` may be called from any thread, by one at a time."""

    def __init__(self, path: str, number: int) -> None:
        """Put both slots at ``number``, durably, and keep the file open; raises OSError."""
        # Under another name first: a file that was only half created would look like a damaged witness.
        fresh = f"{path}.new"
        self._next = 0
        self._descriptor = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            os.pwrite(self._descriptor, 2 * _entry(number).ljust(_SLOTS[1], b"\0"), 0)
            os.fsync(self._descriptor)
            os.rename(fresh, path)
            directory = os.open(os.path.dirname(path), os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except BaseException:
            self.close()
            raise

    def write(self, number: int) -> None:
        """Every write up to ``number`` has been synced.  Takes a microsecond; no fsync."""
        os.pwrite(self._descriptor, _entry(number), _SLOTS[self._next])
        self._next ^= 1

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _entry(number: int) -> bytes:
    content = _NUMBER.pack(number)
    return content + _SUM.pack(crc32(content))


def read_witness(path: str) -> int | None:
    """The number that was acknowledged last; None where there is no file.  Raises ValueError if no slot is whole."""
    try:
        with open(path, "rb") as file:
            content = file.read(_SIZE_BYTES)
    except FileNotFoundError:
        return None
    numbers: list[int] = []
    for slot in _SLOTS:
        entry = content[slot : slot + _NUMBER.size + _SUM.size]
        if len(entry) == _NUMBER.size + _SUM.size and entry == _entry(_NUMBER.unpack_from(entry)[0]):
            numbers.append(_NUMBER.unpack_from(entry)[0])
    if not numbers:
        raise ValueError("no slot of it is whole")
    return max(numbers)
