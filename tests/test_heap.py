"""Freed memory is kept: in a process of its own, as it is a process that changes."""

from __future__ import annotations

import subprocess
import sys

COUNT = """
import resource
from chunkwise.heap import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(200):
        pieces = [bytes(150_528) for _ in range(3)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

keep_freed_memory() and faults()
print(faults() if keep_freed_memory() else 0)
"""


def test_messages_of_one_size_need_no_new_pages() -> None:
    told = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True, check=True)
    assert int(told.stdout) < 2000, "the same pages serve again and again; 200 x 3 x 37 would be needed anew"
