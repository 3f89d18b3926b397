"""How tests start programs that must not outlive them."""

from __future__ import annotations

DIES_WITH_US = ("setpriv", "--pdeathsig", "KILL", "--")
"""Before a command: it dies with the process that started it, however that ends.

Not by a preexec_fn: that forks this process, and what gRPC's threads hold in it, before the program is another.
"""
