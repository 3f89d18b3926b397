"""Windows: what one step's exchanges of one operation over one link class were, as sums that the controller can fit.

The duration of an exchange is the least over its ranks: the last one to arrive waited for nobody.
"""

from collections.abc import Mapping, Sequence

import numpy

from thinwire.runtime.exchange.meter import Operation
from thinwire.runtime.exchange.report import RankReport
from thinwire.runtime.facts import WindowFacts
from thinwire.runtime.parallel import LinkClass

Groups = Mapping[Operation, Sequence[tuple[LinkClass, tuple[int, ...]]]]
"""For each operation every group of ranks that runs it, with what lies between its ranks."""


def windows_of(reports: Sequence[RankReport], groups: Groups) -> tuple[WindowFacts, ...]:
    """Return a window for every operation and link class that carried something. reports: of all ranks, by rank."""
    windows = []
    for operation in Operation:
        for link_class in LinkClass:
            members = [ranks for carrier, ranks in groups.get(operation, ()) if carrier is link_class]
            window = _window(operation, link_class, members, reports) if members else None
            if window is not None:
                windows.append(window)
    return tuple(windows)


def _window(
    operation: Operation, link_class: LinkClass, members: Sequence[tuple[int, ...]], reports: Sequence[RankReport]
) -> WindowFacts | None:
    transfers = [transfer for ranks in members for transfer in [_transfers(operation, ranks, reports)] if transfer.size]
    if not transfers:
        return None
    sizes, values, seconds, waited = numpy.concatenate(transfers, axis=1)
    place = list(Operation).index(operation)
    everybody = [rank for ranks in members for rank in ranks]
    return WindowFacts(
        link_class=link_class,
        operation=operation,
        count=len(sizes),
        sum_bytes=float(sizes.sum()),
        sum_seconds=float(seconds.sum()),
        sum_bytes_squared=float((sizes * sizes).sum()),
        sum_bytes_seconds=float((sizes * seconds).sum()),
        sum_seconds_squared=float((seconds * seconds).sum()),
        min_seconds=float(seconds.min()),
        max_seconds=float(seconds.max()),
        encode_seconds=max(reports[rank].encode_seconds[place] for rank in everybody),
        decode_seconds=max(reports[rank].decode_seconds[place] for rank in everybody),
        values=int(values.sum()),
        hidden_seconds=float(numpy.maximum(seconds - waited, 0.0).sum()),
    )


def _transfers(
    operation: Operation, ranks: tuple[int, ...], reports: Sequence[RankReport]
) -> numpy.ndarray[tuple[int, int], numpy.dtype[numpy.float64]]:
    """Return bytes, values, seconds and seconds waited for, [4, n], of one group's transfers.

    Every rank of a collective notes the same transfers in the same order; a transfer is hidden as far as no rank
    waited for it.
    """
    rows = [reports[rank].of(operation) for rank in ranks]
    count = min(len(row) for row in rows)
    each = numpy.stack([row[:count] for row in rows])
    return numpy.stack([each[0, :, 0], each[0, :, 1], each[:, :, 2].min(axis=0), each[:, :, 3].max(axis=0)])
