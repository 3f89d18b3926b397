"""What a run says about itself: bytes, windows, pacing, memory."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist

from tests.harness.models import save_tiny_sd3
from tests.harness.sessions import FLUX, OFF, Job, assert_bases_agree, run_job
from thinwire.runtime.exchange import wire
from thinwire.runtime.exchange.meter import StepMeter
from thinwire.runtime.exchange.moment import Moment
from thinwire.runtime.exchange.pacing import Pacer
from thinwire.runtime.parallel import Launch, LinkClass

pytestmark = pytest.mark.distributed


@pytest.mark.parametrize(("pipeline", "ulysses", "ring"), [(FLUX, 2, 1), (FLUX, 2, 2), ("", 1, 2), ("", 2, 2)])
def test_the_traffic_planned_is_the_traffic_seen(
    tiny_sd3: Path, tiny_flux: Path, pipeline: str, ulysses: int, ring: int
) -> None:
    folder = tiny_flux if pipeline else tiny_sd3
    job = Job(folder, pipeline, ulysses, ring, millibits=32_000, steps=2)
    seen = run_job(job)
    assert seen[0].facts is not None
    (traffic,) = seen[0].facts.traffic
    last = seen[0].steps[-1]
    assert last.bytes_uncompressed == traffic.values_per_step * 4 * job.world_size * job.steps
    assert last.bytes_uncompressed_fp16 * 2 == last.bytes_uncompressed
    assert last.bytes_sent == last.bytes_uncompressed
    operations = sum(window.count for window in last.windows)
    groups = {"ring.all_gather": ulysses, "ulysses.all_to_all": ring}
    assert operations == sum(
        groups[window.operation] * (window.count // groups[window.operation]) for window in last.windows
    )
    assert sum(window.count // groups[window.operation] for window in last.windows) == traffic.operations_per_step


def counting_group_bytes(launch: Launch) -> AbstractContextManager[object]:
    """Count what is handed to the process group, and let the count appear as this rank's picture of itself."""

    class CountingGroup:
        def __init__(self) -> None:
            self.sent_bytes = 0

        def __getattr__(self, name: str) -> object:
            return getattr(dist, name)

        def isend(self, tensor: object, group: object, group_dst: int) -> object:
            self.sent_bytes += tensor.numel() * tensor.itemsize
            return dist.isend(tensor, group=group, group_dst=group_dst)

    counting = CountingGroup()

    def checking(note: Callable[..., None]) -> Callable[..., None]:
        def checking_note(self: wire.Wire, *arguments: object) -> None:
            before = counting.sent_bytes
            counting.sent_bytes = 0
            note(self, *arguments)
            assert self.meter.samples[-1].sent_bytes == pytest.approx(before, rel=0.02)

        return checking_note

    both = patch.multiple(wire, dist=counting)
    names = ("note", "note_arrival")
    noted = patch.multiple(wire.Wire, **{name: checking(getattr(wire.Wire, name)) for name in names})

    class Both:
        def __enter__(self) -> None:
            both.__enter__()
            noted.__enter__()

        def __exit__(self, *error: object) -> None:
            noted.__exit__(*error)
            both.__exit__(*error)

    return Both()


def test_bytes_reported_are_the_bytes_given_to_the_process_group(tiny_sd3: Path) -> None:
    seen = run_job(Job(tiny_sd3, ulysses=2, ring=2, millibits=2000, steps=4), meddle=counting_group_bytes)
    last = seen[0].steps[-1]
    assert last.bytes_counted == pytest.approx(last.bytes_sent, rel=0.02)
    assert last.bytes_sent < last.bytes_uncompressed


def test_receives_are_posted_before_sends_so_that_both_directions_of_a_link_run_at_once() -> None:
    posted = []

    class Posting:
        def irecv(self, tensor: object, group: object, group_src: int) -> SimpleNamespace:
            posted.append(("receive", group_src))
            return SimpleNamespace(wait=lambda: posted.append(("wait", None)))

        def isend(self, tensor: object, group: object, group_dst: int) -> SimpleNamespace:
            posted.append(("send", group_dst))
            return SimpleNamespace(wait=lambda: posted.append(("wait", None)))

    neighbours = wire.Neighbours(group=None, ranks=(4, 5, 6), index=1, link_class=LinkClass.INTER_NODE)  # type: ignore[arg-type]
    one = wire.Wire(torch.device("cpu"), Pacer(()), Moment(), StepMeter())
    with patch.object(wire, "dist", Posting()):
        shards = one.all_gather(torch.full((8,), 7, dtype=torch.uint8), neighbours, values=8)
    assert posted == [("receive", 0), ("receive", 2), ("send", 0), ("send", 2), *[("wait", None)] * 4]
    assert shards[1].tolist() == [7] * 8


def test_windows_hold_one_exchange_per_layer_and_group(tiny_sd3: Path) -> None:
    seen = run_job(Job(tiny_sd3, ulysses=2, ring=2, steps=3))
    for step in seen[0].steps:
        by_operation = {window.operation: window for window in step.windows}
        assert by_operation["ring.all_gather"].count == 2 * 2
        assert by_operation["ulysses.all_to_all"].count == 2 * 4 * 2
        for window in step.windows:
            assert 0 < window.min_seconds <= window.max_seconds <= window.sum_seconds
            assert window.encode_seconds > 0
            assert window.decode_seconds > 0
            assert window.sum_bytes_squared * window.count >= window.sum_bytes**2 * 0.999
        assert 0 < step.compute_seconds < step.step_seconds


def test_an_emulated_link_paces_every_exchange_and_changes_at_its_step(tiny_sd3: Path) -> None:
    slow, fast = 2_000_000, 20_000_000
    seen = run_job(Job(tiny_sd3, millibits=32_000, steps=4, link=((0, fast), (2, slow))))
    assert seen[0].facts is not None
    assert seen[0].facts.link_is_emulated
    for step in seen[0].steps:
        (window,) = step.windows
        rate = fast if step.job_step < 2 else slow
        expected = window.sum_bytes / window.count * 8 / rate
        assert window.min_seconds >= expected
        assert window.min_seconds < 2 * expected + 0.05
        assert step.step_seconds >= window.sum_seconds


def test_an_emulated_link_paces_upstream_s_own_exchange_too(tiny_sd3: Path) -> None:
    seen = run_job(Job(tiny_sd3, ulysses=2, ring=2, mode=OFF, steps=2, link=((0, 4_000_000),)))
    step = seen[0].steps[-1]
    assert {window.operation for window in step.windows} == {"ring.all_gather", "ulysses.all_to_all"}
    for window in step.windows:
        assert window.min_seconds >= window.sum_bytes / window.count * 8 / 4_000_000
    assert step.bytes_sent == step.bytes_uncompressed


def test_mode_off_leaves_upstream_s_functions_in_place(tiny_sd3: Path) -> None:
    run_job(Job(tiny_sd3, ulysses=2, ring=2, mode=OFF, steps=1), meddle=UpstreamIsUntouched)


class UpstreamIsUntouched:
    """Checks on the way out, while the session is still open, that nothing was replaced."""

    def __init__(self, launch: Launch) -> None:
        from xfuser.model_executor.layers import usp

        self.usp = usp
        self.before = dict(vars(usp))

    def __enter__(self) -> None:
        from thinwire.runtime.generate import Session

        generate = Session.generate_pixels

        def checking_generate(session: Session, *arguments: object, **options: object) -> object:
            picture = generate(session, *arguments, **options)
            changed = [name for name, value in vars(self.usp).items() if self.before.get(name, value) is not value]
            assert changed == []
            return picture

        self.patch = patch.object(Session, "generate_pixels", checking_generate)
        self.patch.__enter__()

    def __exit__(self, *error: object) -> None:
        self.patch.__exit__(*error)


def test_bases_obey_their_budget(tmp_path: Path) -> None:
    folder = save_tiny_sd3(tmp_path / "deep", layers=6)
    job = Job(folder, millibits=4000, steps=3, pixels=192)
    free = run_job(job)[0]
    assert free.facts is not None
    assert free.steps[-1].base_memory_bytes == free.facts.base_memory_bytes > 2 * 2**20
    assert free.base_bytes == free.facts.base_memory_bytes

    tight = run_job(Job(folder, millibits=4000, steps=3, pixels=192, base_memory_mebibytes=1))
    assert tight[0].facts is not None
    assert 0 < tight[0].steps[-1].base_memory_bytes == tight[0].facts.base_memory_bytes <= 2**20
    assert tight[0].steps[-1].bytes_sent > free.steps[-1].bytes_sent
    assert_bases_agree(tight)
