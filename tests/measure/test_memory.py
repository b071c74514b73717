import subprocess
import sys

from laconic.measure.memory import _high_water, peak_bytes

GROW = """
from laconic.measure.memory import peak_bytes
before = peak_bytes()
bytearray(b"1" * (64 << 20))[:0]  # 64 MiB twice, then freed
print(before, peak_bytes())
"""


def test_the_line_of_the_kernel_is_read_in_bytes():
    assert _high_water("Name:\tpython\nVmHWM:\t    9324 kB\nVmRSS:\t  100 kB\n") == 9324 * 1024


def test_the_peak_is_in_bytes_and_stays_when_memory_is_freed():
    before, after = map(int, subprocess.check_output([sys.executable, "-c", GROW]).split())
    assert 120 << 20 <= after - before < 140 << 20


def test_a_small_process_is_not_as_large_as_the_parent_that_started_it():
    held = bytearray(b"1" * (128 << 20))
    child = int(subprocess.check_output([sys.executable, "-c", "from laconic.measure.memory import peak_bytes; print(peak_bytes())"]))
    assert child < len(held) < peak_bytes()
