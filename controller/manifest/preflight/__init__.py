"""What can be known to be wrong before a rank starts: pure reading of JSON and headers, no torch."""

from thinwire.controller.manifest.preflight.check import gpus_of_this_machine, local_preflight, preflight, warnings

__all__ = ["gpus_of_this_machine", "local_preflight", "preflight", "warnings"]
