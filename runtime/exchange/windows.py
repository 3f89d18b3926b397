"""From every rank's durations to the windows of one step: a pure function.

The rank that arrives last at a collective sees the transfer alone, the others see waiting too: so the least duration
over the ranks that took part in an exchange stands for it.
"""

from collections.abc import Mapping, Sequence

from thinwire.runtime.exchange.meter import Operation, Sample
from thinwire.runtime.exchange.report import RankReport
from thinwire.runtime.facts import WindowFacts
from thinwire.runtime.parallel import LinkClass

Groups = Mapping[Operation, Sequence[tuple[LinkClass, tuple[int, ...]]]]
"""For each operation every group of ranks that runs it, with what lies between its ranks."""


def windows_of(samples: Sequence[Sample], reports: Sequence[RankReport], groups: Groups) -> tuple[WindowFacts, ...]:
    """Return a window for every operation and link class.

    samples: this rank's collectives in order; every rank runs the same ones with the same sizes. reports: of all ranks.
    """
    windows = []
    for operation in Operation:
        numbers = [number for number, sample in enumerate(samples) if sample.operation is operation]
        for link_class in LinkClass:
            members = [ranks for carrier, ranks in groups.get(operation, ()) if carrier is link_class]
            if numbers and members:
                windows.append(_window(operation, link_class, numbers, members, samples, reports))
    return tuple(windows)


def _window(
    operation: Operation,
    link_class: LinkClass,
    numbers: Sequence[int],
    members: Sequence[tuple[int, ...]],
    samples: Sequence[Sample],
    reports: Sequence[RankReport],
) -> WindowFacts:
    place = list(Operation).index(operation)
    sizes = [samples[number].sent_bytes for number in numbers for _ in members]
    seconds = [min(reports[rank].durations[number] for rank in ranks) for number in numbers for ranks in members]
    everybody = [rank for ranks in members for rank in ranks]
    return WindowFacts(
        link_class=link_class,
        operation=operation,
        count=len(sizes),
        sum_bytes=sum(sizes),
        sum_seconds=sum(seconds),
        sum_bytes_squared=sum(size * size for size in sizes),
        sum_bytes_seconds=sum(size * second for size, second in zip(sizes, seconds, strict=True)),
        sum_seconds_squared=sum(second * second for second in seconds),
        min_seconds=min(seconds),
        max_seconds=max(seconds),
        encode_seconds=max(reports[rank].encode_seconds[place] for rank in everybody),
        decode_seconds=max(reports[rank].decode_seconds[place] for rank in everybody),
        values=sum(samples[number].values for number in numbers) * len(members),
    )
