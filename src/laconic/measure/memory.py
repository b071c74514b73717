"""Memory: the largest resident set that this process has had."""

import sys
from pathlib import Path


def peak_bytes() -> int:
    """Return the largest resident set of this process since it started, in bytes: code, libraries and data that were in RAM."""
    status = Path("/proc/self/status")
    if status.exists() and "VmHWM:" in (text := status.read_text()):  # counts from exec on; `ru_maxrss` begins with its parent's
        return _high_water(text)
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024


def _high_water(status: str) -> int:
    """Read `VmHWM:     9324 kB` of /proc/self/status, in bytes; kB means KiB there."""
    return int(status.split("VmHWM:")[1].split()[0]) * 1024
