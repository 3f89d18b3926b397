"""Calls that no honest client makes, drawn from a seed: what is called, what is shown, and which bytes are sent."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from tests.controller.messages import hello, step
from thinwire.proto.thinwire.v1alpha1 import status_pb2, telemetry_pb2

JOBS = 64
NAMESPACE = "fuzz"
MOST_PAYLOADS = 40

_JOBS_WITH_STRANGE_NUMBERS = 8

_TELEMETRY = telemetry_pb2.DESCRIPTOR.services_by_name["TelemetryService"]
_STATUS = status_pb2.DESCRIPTOR.services_by_name["StatusService"]
_REPORT = f"/{_TELEMETRY.full_name}/Report"
_STRANGE_METHODS = (
    f"/{_STATUS.full_name}/DeleteJob",
    f"/{_STATUS.full_name}/",
    "/",
    "/thinwire.v1alpha1.TelemetryService",
    "/grpc.health.v1.Health/Check",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
)
_WHOLE = (0, 1, -1, 2, 2**31 - 1, -(2**31), 2**32 - 1, 2**63 - 1, -(2**63), 2**64 - 1, 2**40)
_REAL = (0.0, -0.0, 1.0, -1.0, 1e300, -1e300, 5e-324, float("nan"), float("inf"), -float("inf"))
_TEXTS = ("", "x", "calm", "..", "/", "é" * 100, "x" * 3000, "\x00", "fuzz", "job-0", "\n", "{}", "%s%n")


class Kind(StrEnum):
    """What was done to the messages of a call."""

    NOISE = "noise"
    FLIPPED = "bits flipped"
    CUT = "cut"
    GROWN = "grown"
    SPLICED = "spliced"
    FIELDS = "fields changed"
    REPLAYED = "replayed"
    ANOTHER = "for another job"
    MANY = "thousands of parts"
    HUGE = "over the size limit"
    TOKEN = "token changed"
    METHOD = "strange method"
    HONEST = "honest"


_WEIGHTS = {
    Kind.NOISE: 6,
    Kind.FLIPPED: 16,
    Kind.CUT: 8,
    Kind.GROWN: 8,
    Kind.SPLICED: 8,
    Kind.FIELDS: 28,
    Kind.REPLAYED: 6,
    Kind.ANOTHER: 6,
    Kind.MANY: 1,
    Kind.HUGE: 0.3,
    Kind.TOKEN: 6,
    Kind.METHOD: 4,
    Kind.HONEST: 4,
}


@dataclass(frozen=True)
class Call:
    """One call: its method, the metadata it shows, and its messages as bytes."""

    kind: Kind
    method: str
    metadata: tuple[tuple[str, str | bytes], ...]
    payloads: tuple[bytes, ...]
    streams: bool


def drawn(seed: int) -> Call:
    """The call of a seed."""
    chance = random.Random(seed)
    kind = chance.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
    job = chance.randrange(JOBS)
    if kind is Kind.METHOD:
        payload = chance.randbytes(chance.randrange(64))
        return Call(kind, chance.choice(_STRANGE_METHODS), _shown(f"pod-{job}"), (payload,), chance.random() < 0.5)
    reports = chance.random() < 0.8
    if not reports:
        method, request = chance.choice(_questions(chance, job))
        payload = _mutated(chance, kind, request)
        return Call(kind, method, _token(chance, kind, "reader"), (payload,), method.endswith("WatchJob"))
    said = _reports(chance, kind, job, seed)
    start = chance.randrange(len(said)) if kind is Kind.REPLAYED else 0
    payloads = [
        _mutated(chance, kind, request) if chance.random() < 0.7 else request.SerializeToString() for request in said
    ]
    if start:
        payloads = [*payloads[:start], *payloads[: len(payloads) - start]]
    return Call(kind, _REPORT, _token(chance, kind, f"pod-{job}"), tuple(payloads), True)


def _reports(chance: random.Random, kind: Kind, job: int, seed: int) -> list[Message]:
    """What an honest rank 0 might say, numbered from anywhere."""
    # Numbers that go on from call to call, so that a mutated report is looked at and not passed over as an old one.
    base = 1 + MOST_PAYLOADS * seed
    if job < _JOBS_WITH_STRANGE_NUMBERS:
        base = chance.choice((base, 1, 2**39, 2**63))
    name, attempt = f"job-{job}", 1
    if kind is Kind.ANOTHER:
        name, attempt = chance.choice((("calm", 1), (f"job-{(job + 1) % JOBS}", 1), (name, 2), (name, 0), ("", 1)))
    greeting = hello(base, job_name=name, namespace=NAMESPACE, attempt=attempt)
    first = chance.randrange(20) + seed // JOBS * 8
    steps = [
        step(base + number + 1, first + number, bytes_per_second=10.0 ** chance.uniform(4, 11))
        for number in range(chance.randrange(MOST_PAYLOADS - 2))
    ]
    ending = telemetry_pb2.ReportRequest(
        sequence=base + len(steps) + 1, run_finished=telemetry_pb2.RunFinished(succeeded=True)
    )
    return [greeting, *steps, *([ending] if chance.random() < 0.3 else [])]


def _questions(chance: random.Random, job: int) -> list[tuple[str, Message]]:
    name, namespace = chance.choice((f"job-{job}", "calm", "none", "")), chance.choice((NAMESPACE, "other", ""))
    named = {"namespace": namespace, "name": name}
    return [
        (f"/{_STATUS.full_name}/GetJob", status_pb2.GetJobRequest(**named)),
        (f"/{_STATUS.full_name}/ListJobs", status_pb2.ListJobsRequest(namespace=namespace)),
        (f"/{_STATUS.full_name}/WatchJob", status_pb2.WatchJobRequest(**named)),
        (f"/{_STATUS.full_name}/GetHistory", status_pb2.GetHistoryRequest(**named, from_job_step=chance.randrange(9))),
    ]


def _mutated(chance: random.Random, kind: Kind, message: Message) -> bytes:
    if kind is Kind.FIELDS:
        changed = type(message)()
        changed.CopyFrom(message)
        for _ in range(chance.randrange(1, 4)):
            _change(chance, changed)
        return changed.SerializeToString()
    if kind is Kind.MANY:
        return _crowded(chance, message)
    data = bytearray(message.SerializeToString())
    mutate: dict[Kind, Callable[[], bytes]] = {
        Kind.NOISE: lambda: chance.randbytes(chance.randrange(400)),
        Kind.FLIPPED: lambda: _flipped(chance, data),
        Kind.CUT: lambda: bytes(data[: chance.randrange(len(data) + 1)]),
        Kind.GROWN: lambda: bytes(data) + chance.randbytes(chance.randrange(1, 40)),
        Kind.SPLICED: lambda: _spliced(chance, data),
        Kind.HUGE: lambda: bytes(data) + bytes(5 * 2**20),
    }
    return mutate.get(kind, lambda: bytes(data))()


def _flipped(chance: random.Random, data: bytearray) -> bytes:
    for _ in range(chance.randrange(1, 9) if data else 0):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(data)


def _spliced(chance: random.Random, data: bytearray) -> bytes:
    if not data:
        return b""
    one, two = sorted(chance.randrange(len(data) + 1) for _ in range(2))
    return bytes(data[:two] + data[one:two] * chance.randrange(1, 30) + data[two:])


def _crowded(chance: random.Random, message: Message) -> bytes:
    """A list with more entries than any honest one, empty or all alike."""
    changed = type(message)()
    changed.CopyFrom(message)
    body = changed.WhichOneof("body") if "body" in changed.DESCRIPTOR.oneofs_by_name else None
    inner = getattr(changed, body) if body else changed
    lists = [field for field in inner.DESCRIPTOR.fields if field.is_repeated]
    if lists:
        entries = getattr(inner, chance.choice(lists).name)
        entry = entries[0].SerializeToString() if len(entries) and chance.random() < 0.5 else b""
        for _ in range(chance.choice((17, 600, 5000))):
            entries.add().MergeFromString(entry)
    return changed.SerializeToString()


def _change(chance: random.Random, message: Message) -> None:
    """Set one field, at any depth, to something that an honest client would not send."""
    field = chance.choice(message.DESCRIPTOR.fields)
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        inner = getattr(message, field.name)
        if not field.is_repeated:
            _change(chance, inner)
        elif len(inner) and chance.random() < 0.5:
            _change(chance, chance.choice(inner))
        elif chance.random() < 0.2:
            del inner[:]
        else:
            for _ in range(chance.choice((1, 2, 70, 300))):
                inner.add()
        return
    assert not field.is_repeated, field.full_name
    value = chance.choice(_values(field))
    try:
        setattr(message, field.name, value)
    except ValueError:
        # The number has no place in this field.
        message.ClearField(field.name)


def _values(field: FieldDescriptor) -> tuple[object, ...]:
    if field.type == FieldDescriptor.TYPE_DOUBLE:
        return _REAL
    if field.type == FieldDescriptor.TYPE_STRING:
        return _TEXTS
    if field.type == FieldDescriptor.TYPE_BOOL:
        return (True, False)
    return _WHOLE


def _token(chance: random.Random, kind: Kind, token: str) -> tuple[tuple[str, str | bytes], ...]:
    if kind is not Kind.TOKEN:
        return _shown(token)
    wrong = ("", token[:-1], token.upper(), "x" * 9000, f"Bearer {token}", "pod-1 pod-2", "expired", "calm ")
    return chance.choice(
        (
            (),
            _shown(chance.choice(wrong)),
            _shown(f"made-up-{chance.randrange(10**9)}"),
            (("authorization", f"Basic {token}"),),
            (("authorization", token),),
            (*_shown("made-up"), *_shown(token)),
            (("authorization-bin", chance.randbytes(50)),),
        )
    )


def _shown(token: str) -> tuple[tuple[str, str | bytes], ...]:
    return (("authorization", f"Bearer {token}"),)
