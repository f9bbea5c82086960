"""Tell glibc's allocator to keep what it has: half the time of a network on a processor is page faults."""

from __future__ import annotations

import ctypes
import os

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
OPT_OUT = "MASKCAL_KEEP_MALLOC"


def keep_freed_memory() -> bool:
    """Make this process hold on to freed memory; return whether it does.

    torch returns each activation to the system and takes it back at once, zeroed page by page. A plane of
    2048 x 2048 took 7.2 s with glibc's defaults and 3.0 s with these (two cores, benchmarks/engine.py). The
    price is resident memory, so this is for the command line, which ends; napari keeps the defaults. Setting
    the environment variable ``MASKCAL_KEEP_MALLOC`` keeps them here too. Only glibc has these settings.
    """
    if os.environ.get(OPT_OUT):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    settings = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: 2**31 - 1, _M_TOP_PAD: 256 * 2**20}
    return all(mallopt(name, value) == 1 for name, value in settings.items())
