"""Times latcli beside other ways to the same result; each module is a command, `python -m benchmarks` runs them all."""

import os

# As latcli does for itself: threads that spin while they wait would take time from whatever is timed next.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
