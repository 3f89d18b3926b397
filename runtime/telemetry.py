"""Rank 0's line to the controller, which the step path never waits for.

Concurrency: three parties share a `TelemetryClient`.
- The step path appends to a bounded queue and reads one attribute. The one lock it takes is only ever held for a few
  list operations; it never touches gRPC.
- One daemon thread connects, opens a stream, reads directives from it and puts the newest into that attribute; when the
  stream ends it connects again, after a growing pause.
- gRPC's own thread draws requests from the queue. If the peer is stopped or its host is gone, flow control stops that
  thread alone; the queue fills, and the oldest step reports are dropped and counted.

Every stream begins with a Hello made at that moment, so a controller that was away learns what it missed. A report that
was under way when a stream broke is lost; RunFinished alone is said again until a stream ends in agreement.

With a `TelemetrySecurity` the line is TLS and every stream carries the pod's token; both files are read anew for every
stream, since tokens expire and are rotated in place. A file that cannot be read is like a controller that is away: the
client says so once and tries again.

Make the client after the process has forked for the last time: gRPC does not survive a fork.
"""

import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import structlog

from thinwire.proto.thinwire.v1alpha1 import telemetry_pb2 as pb
from thinwire.proto.thinwire.v1alpha1.run_spec_pb2 import TelemetrySecurity
from thinwire.proto.thinwire.v1alpha1.telemetry_pb2_grpc import TelemetryServiceStub
from thinwire.runtime.facts import Directive

_log = structlog.get_logger(__name__)

RETUNES_TOLD = 512
"""Retunes that a Hello repeats, the newest."""
QUEUE_LIMIT = 512
"""Step reports kept while nobody listens: some minutes of a run."""

_Metadata = tuple[tuple[str, str], ...]

_CHANNEL_OPTIONS: list[tuple[str, int | str]] = [
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 2_000),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    # A peer whose host vanished without a word is noticed within a minute; the server has to permit the pings
    # (grpc.http2.min_ping_interval_without_data_ms of 20 seconds or less).
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.enable_http_proxy", 0),
]
_SHORTEST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 5.0
_THREAD_END_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Counters:
    """What became of the reports so far."""

    sent: int
    """Handed to gRPC, Hellos included; whether the controller took them is not known."""
    dropped: int
    """Step reports that made way for newer ones."""
    streams: int
    """Streams that reached the controller, the first one included."""


class _Stream:
    """One call of Report: how far it got. `all_said`: RunFinished went into it."""

    __slots__ = ("all_said", "connected", "over")

    def __init__(self) -> None:
        self.connected = False
        self.over = False
        self.all_said = False


class TelemetryClient:
    """Reports to a TelemetryService and hears directives from it. Its methods belong to one thread."""

    def __init__(
        self,
        address: str,
        hello: pb.Hello,
        *,
        security: TelemetrySecurity | None = None,
        queue_limit: int = QUEUE_LIMIT,
    ) -> None:
        """Begin to connect to `address` (host:port), in the background.

        `hello` says what is true at the start; the client keeps its own copy current. Without `security` the line is
        plain: for one machine.
        """
        self._address = address
        self._security = security
        self._limit = queue_limit
        self._hello = pb.Hello()
        self._hello.CopyFrom(hello)
        self._directive: Directive | None = None
        self._changed = threading.Condition()
        self._queue: deque[pb.ReportRequest] = deque()
        self._queued_steps = 0
        self._run_finished: pb.RunFinished | None = None
        self._call: grpc.Call | None = None
        self._away = False
        self._closing = False
        self._hung_up = False
        self._sequence = 0
        self._sent = self._dropped = self._streams = 0
        self._delivered = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="thinwire-telemetry", daemon=True)
        self._thread.start()

    @property
    def counters(self) -> Counters:
        """What became of the reports so far."""
        with self._changed:
            return Counters(self._sent, self._dropped, self._streams)

    def newest_directive(self) -> Directive | None:
        """Return the directive with the highest epoch heard so far, without waiting."""
        return self._directive

    def step(self, report: pb.StepReport, retunes: tuple[pb.Retune, ...] = ()) -> None:
        """Queue a step; beyond the limit the oldest queued step is dropped. Never waits for the network."""
        with self._changed:
            hello = self._hello
            hello.epoch = max(hello.epoch, report.epoch, *(retune.epoch for retune in retunes), 0)
            hello.bytes_sent = report.bytes_sent
            hello.bytes_uncompressed = report.bytes_uncompressed
            rates = {rate.link_class: rate.millibits for rate in report.rates}
            rates |= {retune.link_class: retune.to_millibits for retune in retunes}
            del hello.rates[:]
            hello.rates.extend(pb.LinkClassRate(link_class=name, millibits=rate) for name, rate in rates.items())
            hello.retunes.extend(retunes)
            # A job of weeks must be able to say Hello: the controller shows no more than these.
            del hello.retunes[:-RETUNES_TOLD]
            self._queue.append(pb.ReportRequest(step=report))
            self._queued_steps += 1
            if self._queued_steps > self._limit:
                self._drop_oldest_step()
            self._changed.notify_all()

    def prompt_finished(self, finished: pb.PromptFinished) -> None:
        """Queue a finished prompt; it does not make way for newer reports."""
        with self._changed:
            self._hello.prompts_done = finished.prompts_done
            self._queue.append(pb.ReportRequest(prompt_finished=finished))
            self._changed.notify_all()

    def close(self, finished: pb.RunFinished, *, timeout_seconds: float = 5.0) -> bool:
        """Say how the run ended, wait at most `timeout_seconds` until the controller has taken it, and hang up.

        Returns whether the controller ended the stream in agreement.
        """
        with self._changed:
            self._run_finished = finished
            self._closing = True
            self._changed.notify_all()
        delivered = self._delivered.wait(timeout_seconds)
        with self._changed:
            self._hung_up = True
            if self._call is not None:
                _cancel(self._call)
            self._changed.notify_all()
        self._thread.join(_THREAD_END_SECONDS)
        if not delivered:
            _log.warning("telemetry.end_not_delivered", address=self._address, waited_seconds=timeout_seconds)
        return delivered

    def _drop_oldest_step(self) -> None:
        oldest = next(index for index, request in enumerate(self._queue) if request.HasField("step"))
        del self._queue[oldest]
        self._queued_steps -= 1
        self._dropped += 1

    def _serve(self) -> None:
        pause_seconds = _SHORTEST_PAUSE_SECONDS
        while not self._hung_up:
            began = time.monotonic()
            try:
                channel, metadata = _dialled(self._address, self._security)
            except (OSError, ValueError) as error:
                self._log_unreadable(error)
            else:
                with channel:
                    self._hold_stream(channel, metadata)
            if self._delivered.is_set():
                return
            lasted = time.monotonic() - began > _LONGEST_PAUSE_SECONDS
            pause_seconds = _SHORTEST_PAUSE_SECONDS if lasted else min(2 * pause_seconds, _LONGEST_PAUSE_SECONDS)
            with self._changed:
                self._changed.wait_for(lambda: self._hung_up, pause_seconds)

    def _hold_stream(self, channel: grpc.Channel, metadata: _Metadata) -> None:
        """Hold one stream until it ends; set `_delivered` if it carried everything and ended in agreement."""
        stream = _Stream()
        call = TelemetryServiceStub(channel).Report(self._requests(stream), metadata=metadata)
        with self._changed:
            self._call = call
            if self._hung_up:
                _cancel(call)
        try:
            for response in call:
                self._hear(response)
            if stream.all_said:
                self._delivered.set()
            else:
                _log.warning("telemetry.ended_by_controller", address=self._address)
        except grpc.RpcError:
            if not self._hung_up:
                self._log_failure(stream, call)
        finally:
            with self._changed:
                self._call = None
                stream.over = True
                self._changed.notify_all()

    def _log_failure(self, stream: _Stream, call: grpc.Call) -> None:
        event = "telemetry.lost" if stream.connected else "telemetry.away"
        if stream.connected or not self._away:
            _log.warning(event, address=self._address, code=call.code().name, details=call.details())
        self._away = True

    def _log_unreadable(self, error: OSError | ValueError) -> None:
        if not self._away:
            remedy = "the run goes on at its last rate; check the pod's projected volume"
            _log.warning("telemetry.credentials_unreadable", address=self._address, error=str(error), remedy=remedy)
        self._away = True

    def _hear(self, response: pb.ReportResponse) -> None:
        if not response.HasField("directive"):
            return
        heard = response.directive
        if self._directive is None or heard.epoch > self._directive.epoch:
            rates = {rate.link_class: rate.millibits for rate in heard.rates}
            self._directive = Directive(heard.epoch, rates, heard.reason)

    def _requests(self, stream: _Stream) -> Iterator[pb.ReportRequest]:
        """Yield a Hello, then what is queued, as it comes; end after RunFinished or when the stream is over."""
        with self._changed:
            hello = pb.Hello()
            hello.CopyFrom(self._hello)
            first = self._numbered(pb.ReportRequest(hello=hello))
        yield first
        # gRPC asks for the second request when the first is on its way: the controller is there.
        with self._changed:
            stream.connected, self._away = True, False
            self._streams += 1
        _log.info("telemetry.connected", address=self._address)
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._queue) or self._closing or stream.over)
                if stream.over:
                    return
                if not self._queue:
                    break
                request = self._numbered(self._queue.popleft())
                self._queued_steps -= request.HasField("step")
            yield request
        with self._changed:
            last = self._numbered(pb.ReportRequest(run_finished=self._run_finished))
        stream.all_said = True
        yield last

    def _numbered(self, request: pb.ReportRequest) -> pb.ReportRequest:
        self._sequence += 1
        self._sent += 1
        request.sequence = self._sequence
        return request


def _dialled(address: str, security: TelemetrySecurity | None) -> tuple[grpc.Channel, _Metadata]:
    """A channel, and what every call on it says of the caller.

    Raises OSError for a file that cannot be read, ValueError for a token that is none.
    """
    if security is None:
        return grpc.insecure_channel(address, options=_CHANNEL_OPTIONS), ()
    credentials = grpc.ssl_channel_credentials(Path(security.ca_file).read_bytes())
    options = list(_CHANNEL_OPTIONS)
    if security.server_name:
        options.append(("grpc.ssl_target_name_override", security.server_name))
    token = Path(security.token_file).read_text(encoding="ascii").strip()
    if not token or not token.isprintable():
        raise ValueError(f"expected a token in {security.token_file}, got {'other bytes' if token else 'nothing'}")
    return grpc.secure_channel(address, credentials, options=options), (("authorization", f"Bearer {token}"),)


def _cancel(call: grpc.Call) -> None:
    call.cancel()  # type: ignore[no-untyped-call]
