"""Measurements that anyone can repeat: `python -m benchmarks.NAME`."""

from gram.common.openmp import wait_briefly

wait_briefly()  # as the commands do
