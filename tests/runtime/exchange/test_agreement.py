"""All ranks hold the same bases and switch at the same step, whatever is commanded or goes wrong."""

from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from tests.harness.sessions import ADAPTIVE, Job, assert_bases_agree, run_job
from thinwire.compression import BITS1, LADDER, RAW
from thinwire.runtime.exchange.courier import Arrival
from thinwire.runtime.exchange.wire import Neighbours, Wire
from thinwire.runtime.facts import Directive
from thinwire.runtime.parallel import Launch

pytestmark = pytest.mark.distributed
RATES = [rung.millibits for rung in LADDER if rung is not RAW] + [32_000]


def test_bases_agree_bit_for_bit_after_every_step(tiny_sd3: Path) -> None:
    seen = run_job(Job(tiny_sd3, ulysses=2, ring=2, millibits=2000, steps=6))
    assert len(seen[0].checksums) == 6
    assert any(seen[0].checksums[-1][0])
    assert_bases_agree(seen)


def test_a_new_rate_at_every_step_leaves_the_bases_right(tiny_sd3: Path) -> None:
    directives = tuple(
        Directive(epoch=number + 1, rates={"intra-node": RATES[number * 3 % len(RATES)]}) for number in range(28)
    )
    seen = run_job(Job(tiny_sd3, ulysses=2, ring=2, mode=ADAPTIVE, steps=28, directives=directives))
    assert_bases_agree(seen)
    steps = seen[0].steps
    assert [step.epoch for step in steps] == list(range(28))
    assert len({step.rates["intra-node"] for step in steps}) == len(RATES)
    assert steps[-1].base_mismatches == 0
    assert steps[-1].frames_refused == 0
    assert sum(len(step.retunes) for step in steps) == 28


def test_coming_back_from_off_begins_with_a_key_frame(tiny_sd3: Path) -> None:
    directives = (
        None,
        Directive(1, {"intra-node": 32_000}, "fast link"),
        None,
        Directive(2, {"intra-node": 2000}, "slow link"),
    )
    seen = run_job(Job(tiny_sd3, mode=ADAPTIVE, millibits=4000, steps=6, directives=directives))
    assert [step.key_frame for step in seen[0].steps] == [True, False, False, False, True, False]
    assert [step.base_memory_bytes > 0 for step in seen[0].steps] == [True, True, False, False, True, True]
    assert [(retune.step, retune.reason) for step in seen[0].steps for retune in step.retunes] == [
        (2, "fast link"),
        (4, "slow link"),
    ]
    assert_bases_agree(seen)


def test_link_classes_have_rates_of_their_own(tiny_sd3: Path) -> None:
    directives = (Directive(1, {"inter-node": 1000}),)
    job = Job(tiny_sd3, ulysses=2, ring=2, mode=ADAPTIVE, millibits=32_000, ranks_per_node=2, directives=directives)
    seen = run_job(job)
    first, last = seen[0].steps[0], seen[0].steps[-1]
    assert first.rates == {"intra-node": 32_000, "inter-node": 32_000}
    assert last.rates["intra-node"] == 32_000
    assert last.rates["inter-node"] < 3000
    assert {(window.link_class, window.operation) for window in last.windows} == {
        ("intra-node", "ulysses.all_to_all"),
        ("inter-node", "ring.all_gather"),
    }


def test_rates_are_frozen_during_warm_up(tiny_sd3: Path) -> None:
    directives = (Directive(1, {"intra-node": 1000}),) * 9
    seen = run_job(Job(tiny_sd3, mode=ADAPTIVE, warmup_steps=3, steps=5, directives=directives))
    assert [step.epoch for step in seen[0].steps] == [0, 0, 0, 1, 1]


def test_an_old_epoch_changes_nothing(tiny_sd3: Path) -> None:
    directives = (Directive(5, {"intra-node": 2000}), Directive(4, {"intra-node": 8000}))
    seen = run_job(Job(tiny_sd3, mode=ADAPTIVE, directives=directives))
    assert [step.epoch for step in seen[0].steps] == [0, 5, 5, 5]


def test_a_second_prompt_starts_from_a_key_frame_and_the_first_one_s_rate(tiny_sd3: Path) -> None:
    directives = (Directive(1, {"intra-node": BITS1.millibits}),)
    prompts = ("a red heart", "a blue face")
    seen = run_job(Job(tiny_sd3, mode=ADAPTIVE, steps=3, prompts=prompts, directives=directives))
    steps = seen[0].steps
    assert [step.job_step for step in steps] == list(range(6))
    assert [step.key_frame for step in steps] == [True, False, False, True, False, False]
    assert steps[5].rates == steps[2].rates
    assert_bases_agree(seen)


FIELDS = {
    "magic": 0,
    "version": 2,
    "rung": 4,
    "branch": 5,
    "rate": 6,
    "epoch": 8,
    "step": 12,
    "rows": 16,
    "channels": 20,
    "layer": 24,
    "source": 26,
    "role": 31,
    "length": 32,
    "payload": 60,
}


def damaging(launch: Launch) -> AbstractContextManager[object]:
    """On rank 1, in every second step from step 2 on, damage one more field of one frame that arrives."""
    if launch.rank != 1:
        return nullcontext()
    hop_beside, damaged = Wire.hop_beside, set()

    def damaging_hop(self: Wire, parcel: torch.Tensor, neighbours: Neighbours) -> Arrival:
        arrival = hop_beside(self, parcel, neighbours)
        step = self.moment.step
        number = (step - 2) // 2
        if step >= 2 and step % 2 == 0 and step not in damaged and number < len(FIELDS):
            damaged.add(step)
            arrival.tensor[list(FIELDS.values())[number]] ^= 0xFF
        return arrival

    return patch.object(Wire, "hop_beside", damaging_hop)


def test_a_frame_with_any_field_wrong_is_refused_and_repaired_by_a_key_frame(tiny_sd3: Path) -> None:
    steps = 2 + 2 * len(FIELDS)
    seen = run_job(Job(tiny_sd3, ring=2, steps=steps), meddle=damaging)
    facts = seen[0].steps
    assert [step.frames_refused for step in facts[2::2]] == list(range(1, len(FIELDS) + 1))
    assert facts[-1].key_frames_forced == len(FIELDS)
    assert [step.key_frame for step in facts] == [True, False, False] + [True, False] * (len(FIELDS) - 1) + [True]
    (sent, _), (_, heard) = seen[0].checksums[-1], seen[1].checksums[-1]
    assert sent[1] == heard[0]


def corrupting_a_base(launch: Launch) -> AbstractContextManager[object]:
    """On rank 1, in step 5, flip a bit of a base without telling anybody."""
    if launch.rank != 1:
        return nullcontext()
    hop_beside = Wire.hop_beside

    def flipping_hop(self: Wire, parcel: torch.Tensor, neighbours: Neighbours) -> Arrival:
        if self.moment.step == 5 and self.moment.layer == 0:
            for decoder in BASES:
                decoder._state.base.view(torch.int32)[0, 0] ^= 1
        return hop_beside(self, parcel, neighbours)

    from thinwire.runtime.exchange.streams import Streams

    BASES: list[object] = []
    make_decoder = Streams.decoder

    def keeping_decoder(self: Streams, *arguments: object) -> object:
        decoder = make_decoder(self, *arguments)
        if decoder not in BASES:
            BASES.append(decoder)
        return decoder

    stack = patch.multiple(Streams, decoder=keeping_decoder)
    wire = patch.object(Wire, "hop_beside", flipping_hop)

    class Both:
        def __enter__(self) -> None:
            stack.__enter__()
            wire.__enter__()

        def __exit__(self, *error: object) -> None:
            wire.__exit__(*error)
            stack.__exit__(*error)

    return Both()


def test_bases_that_drift_apart_are_found_and_repaired(tiny_sd3: Path) -> None:
    seen = run_job(Job(tiny_sd3, ring=2, millibits=2000, steps=10), meddle=corrupting_a_base)
    steps = seen[0].steps
    assert steps[6].base_mismatches == 0
    assert steps[7].base_mismatches == 1
    assert steps[8].key_frame
    assert steps[-1].base_mismatches == 1
    assert steps[-1].key_frames_forced == 1
    assert seen[0].checksums[-1][0][1] == seen[1].checksums[-1][1][0]


@pytest.mark.parametrize("ceiling_milli", [20, 150])
def test_a_step_above_the_ceiling_is_followed_by_a_key_frame_at_once(tiny_sd3: Path, ceiling_milli: int) -> None:
    job = Job(tiny_sd3, ulysses=2, ring=2, millibits=1000, steps=12, max_relative_error_milli=ceiling_milli)
    seen = run_job(job)
    steps = seen[0].steps
    above = [step.max_relative_error > ceiling_milli / 1000 for step in steps]
    assert any(above)
    for index, (now, later) in enumerate(pairwise(steps)):
        if above[index] and not now.key_frame:  # a key frame's error says nothing about the rung
            assert later.key_frame or later.rates["intra-node"] == RATES[-1]  # or it travels whole
    assert_bases_agree(seen)
