"""What ranks measured, as the controller's policy takes it."""

from thinwire.controller.policy.reports import Window
from thinwire.runtime.facts import WindowFacts


def window_of(facts: WindowFacts) -> Window:
    """Return a step's figures of one operation without those of the codec."""
    return Window(
        facts.link_class,
        facts.operation,
        facts.count,
        facts.sum_bytes,
        facts.sum_seconds,
        facts.sum_bytes_squared,
        facts.sum_bytes_seconds,
        values=facts.values,
    )
