"""What every rung would cost on the links as they are: seconds of stall per step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from thinwire.controller.policy.estimator import Line, LinkEstimate
from thinwire.controller.policy.reports import OFF, Limits, Rung

_MILLIBITS_PER_BYTE = 8000.0
_HEADERS_SHARE = 16
_HEADERS_MILLIBITS = 250
WHOLE_MILLIBITS = 16_000


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation over one link class: its traffic in a step, whatever the rate, and what its link carries."""

    name: str
    estimate: LinkEstimate = LinkEstimate()  # noqa: RUF009 - frozen, so sharing it is safe
    count: int = 0
    values: int = 0


@dataclass(frozen=True, slots=True)
class Outlook:
    """One rung's price: what a step would wait for links and codec."""

    rung: Rung
    stall_seconds: float


View = Callable[[LinkEstimate], Line]


def plainly(estimate: LinkEstimate) -> Line:
    """The fit itself."""
    return estimate.plain


def carefully(estimate: LinkEstimate) -> Line:
    """The fit less what it has been wrong by."""
    return estimate.careful


def lately(estimate: LinkEstimate) -> Line:
    """The last window alone."""
    return estimate.lately


def outlooks(
    operations: Sequence[Operation],
    rungs: Sequence[Rung],
    view: View,
    *,
    codec_factor: float = 1.0,
    exposed_share: float = 1.0,
) -> tuple[Outlook, ...]:
    """The price of every rung, in the order of `rungs`.

    `codec_factor` is measured over announced codec seconds; `exposed_share` is the part of exchange and codec that
    computing does not hide (1: nothing overlaps).
    """
    known = [operation for operation in operations if operation.estimate.known]
    lines = [view(operation.estimate) for operation in known]
    fixed = sum(operation.count * line.alpha_seconds for operation, line in zip(known, lines, strict=True))
    per_bit = sum(operation.values / line.bytes_per_second for operation, line in zip(known, lines, strict=True))
    values = sum(operation.values for operation in known)
    return tuple(
        Outlook(
            rung,
            exposed_share
            * (
                fixed
                + per_bit * rung.millibits / _MILLIBITS_PER_BYTE
                + values * rung.codec_seconds_per_value * codec_factor
            ),
        )
        for rung in rungs
    )


def allowed(ladder: Sequence[Rung], limits: Limits, over_the_ceiling_millibits: int) -> tuple[Rung, ...]:
    """The rungs that limits and the ceiling on relative error leave, least lossy first; never empty.

    A limit of the owner's names bits of content: headers and scales on top of them (a sixteenth and 250 millibits) are
    not held against a rung, and a maximum of 16000 or more allows everything up to "off", whatever the model's width.
    A coded rung that is no smaller than "off" is of no use and left out.
    """
    off = next((rung.millibits for rung in ladder if rung.name == OFF), None)
    useful = [rung for rung in ladder if rung.name == OFF or off is None or rung.millibits < off]
    lossy_last = sorted(useful, key=lambda rung: rung.loss)
    most = limits.max_millibits + limits.max_millibits // _HEADERS_SHARE + _HEADERS_MILLIBITS
    unlimited = limits.max_millibits >= WHOLE_MILLIBITS or limits.max_millibits <= 0
    within = [
        rung for rung in lossy_last if (unlimited or rung.millibits <= most) and rung.millibits >= limits.min_millibits
    ]
    if not within:
        within = [min(lossy_last, key=lambda rung: abs(rung.millibits - limits.max_millibits))]
    faithful = tuple(rung for rung in within if rung.millibits > over_the_ceiling_millibits)
    return faithful or (within[0],)
