"""Where the run is: the exchanges are not told by upstream which layer and step they serve."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from thinwire.compression import Rung
from thinwire.runtime.parallel import LinkClass


@dataclass(slots=True)
class Moment:
    """Set by `steps` (layer, branch) and by the boundary (everything else); read by every exchange."""

    job_step: int = 0
    step: int = 0
    layer: int = 0
    branch: int = -1
    """Forwards of the transformer in this step, less one."""
    epoch: int = 0
    key_frame: bool = True
    rungs: Mapping[LinkClass, Rung | None] = field(default_factory=dict)
    """None: exchange without codec."""
    step_started: float = 0.0
    """Seconds of the monotonic clock."""
    inputs_seen: int = 0
    """Ulysses inputs of the current attention call that came one by one: query, key, value."""
