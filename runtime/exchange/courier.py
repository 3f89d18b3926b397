"""Transfers that run while this rank computes: a thread that carries them one after another.

Each exchange has a courier of its own: one that waits for a stage's hidden states must not hold up a ring.

The thread blocks in the process group, where Python holds no lock; the rank that posted a transfer goes on and asks for
what came of it when it needs it. Transfers of one courier start in the order in which they were posted, so every rank
of a group must post the same ones in the same order.
"""

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch


@dataclass(frozen=True, slots=True)
class Arrival:
    """What a transfer brought. seconds: from when it had the link until it was over."""

    tensor: torch.Tensor
    seconds: float


@dataclass(slots=True)
class Ticket:
    """A transfer under way."""

    _over: threading.Event = field(default_factory=threading.Event)
    _arrival: Arrival | None = None
    _error: BaseException | None = None

    def wait(self) -> tuple[Arrival, float]:
        """Return what arrived, and the seconds that this call stood still for it.

        Raises:
            Exception: what the process group raised, such as that a peer is gone.
        """
        asked = time.perf_counter()
        self._over.wait()
        if self._error is not None:
            raise self._error
        assert self._arrival is not None
        return self._arrival, time.perf_counter() - asked

    def carry(self, transfer: Callable[[], Arrival]) -> None:
        """Run the transfer; the courier's thread calls this."""
        try:
            self._arrival = transfer()
        except BaseException as error:  # the rank that waits for it raises it
            self._error = error
        self._over.set()


@dataclass(slots=True)
class Courier:
    """Posts transfers; `close` when nothing is under way any more."""

    device: torch.device
    _posted: "queue.SimpleQueue[tuple[Ticket, Callable[[], Arrival]] | None]" = field(default_factory=queue.SimpleQueue)
    _thread: threading.Thread | None = None

    def post(self, transfer: Callable[[], Arrival]) -> Ticket:
        """Have a transfer carried as soon as those before it are over."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="thinwire-courier", daemon=True)
            self._thread.start()
        ticket = Ticket()
        self._posted.put((ticket, transfer))
        return ticket

    def close(self) -> None:
        """Let the thread end once it has carried what is posted. A peer that is gone must not hold it: no waiting."""
        if self._thread is not None:
            self._posted.put(None)
            self._thread = None

    def _work(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        while (posted := self._posted.get()) is not None:
            ticket, transfer = posted
            ticket.carry(transfer)
