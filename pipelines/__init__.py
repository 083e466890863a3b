"""When, where and with what the assets are made."""

import os

# torch's OpenMP threads otherwise spin while they wait for each other. On a machine with other work that takes the core
# away from the very thread they wait for: a training step was measured sixteen times slower. It must stand in the
# environment before torch is loaded, and what the user sets goes first.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
