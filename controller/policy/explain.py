"""The one line that a person reads about a decision: which link, what it carries, what a step would wait."""

from __future__ import annotations

from dataclasses import dataclass

from thinwire.controller.policy.forecast import Outlook

_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


@dataclass(frozen=True, slots=True)
class Reason:
    """What a decision about one link class rests on."""

    link_class: str
    bytes_per_second: float
    latency_seconds: float
    before: Outlook
    after: Outlook
    budget_seconds: float
    compute_seconds: float

    def text(self, *, held: bool) -> str:
        """One line; `held` says that the rate stays because nothing asks for another."""
        link = (
            f"{self.link_class} carries {throughput(self.bytes_per_second)}, {self.latency_seconds * 1e3:.2g} ms each"
        )
        target = f"target {self._share(self.budget_seconds)}"
        now = f"{self.before.rung.name} stalls {self._share(self.before.stall_seconds)} of computing"
        if held or self.before.rung == self.after.rung:
            return f"{link}: {now} ({target}), stays {self.before.rung.name}"
        then = f"{self.after.rung.name} {self._share(self.after.stall_seconds)}"
        return f"{link}: {now}, {then} ({target}), {self._steps()}: {self.before.rung.name} -> {self.after.rung.name}"

    def _steps(self) -> str:
        """Step time before and after, as far as this link class and computing make it."""
        before, after = (
            max(self.compute_seconds, 0.0) + max(outlook.stall_seconds, 0.0) for outlook in (self.before, self.after)
        )
        return f"step {before:.3g} s -> {after:.3g} s"

    def _share(self, seconds: float) -> str:
        if self.compute_seconds <= 0:
            return f"{seconds * 1e3:.3g} ms"
        return f"{100 * max(seconds, 0.0) / self.compute_seconds:.3g} %"


def throughput(bytes_per_second: float) -> str:
    """Bytes per second in a unit that leaves three figures."""
    return f"{size(bytes_per_second)}/s"


def size(count_bytes: float) -> str:
    """Bytes in a unit that leaves three figures."""
    for of_unit, unit in _UNITS:
        if count_bytes >= of_unit:
            return f"{count_bytes / of_unit:.3g} {unit}"
    return f"{count_bytes:.3g} B"
