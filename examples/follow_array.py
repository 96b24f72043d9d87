"""Follow the writes to a numpy array, and keep a copy of it up to date by copying only what was written."""

from __future__ import annotations

import numpy as np

import vramtap

ROWS = 2000


def main() -> None:
    """Write some rows, and copy only the pages in which they lie."""
    array = np.zeros((ROWS, 1024), dtype=np.float32)
    copy = np.ones_like(array)
    source, target = array.view(np.uint8).reshape(-1), copy.view(np.uint8).reshape(-1)
    with vramtap.track(array) as writes:
        for row in (None, 10, 11, 1500, None):
            if row is not None:
                array[row] = row
            copied = 0
            # The first pass gives the whole array: the tracker knows nothing of the time before it started.
            for start, stop in writes:
                target[start:stop] = source[start:stop]
                copied += stop - start
            same = np.array_equal(array, copy)
            print(f"wrote row {row}: copied {copied} of {array.nbytes} bytes, equal: {same}")


if __name__ == "__main__":
    main()
