"""Key frames follow the rate: in int8 beside coarse rungs, raw beside fine ones."""

from pathlib import Path

import pytest

from tests.harness.sessions import Job, assert_bases_agree, run_job
from thinwire.compression import BITS1, BITS2, INT4, INT8, RAW, BaseFormat, Rung, choose_kernel
from thinwire.runtime.exchange.streams import CodecPlan


@pytest.mark.parametrize(
    ("rung", "coded", "expected"),
    [
        (BITS1, True, INT8),
        (BITS2, True, INT8),
        (INT4, True, INT8),
        (INT8, True, RAW),
        (RAW, True, RAW),
        (BITS1, False, RAW),
        (INT4, False, RAW),
    ],
)
def test_a_key_frame_is_coded_where_it_is_not_the_worst_step(rung: Rung, coded: bool, expected: Rung) -> None:
    plan = CodecPlan(choose_kernel("eager"), 2, BaseFormat.FULL, coded_key_frames=coded)
    assert plan.key_rung(rung) is expected


def key_and_coded_bytes(folder: Path, millibits: int) -> tuple[int, int]:
    seen = run_job(Job(folder, ulysses=2, ring=2, millibits=millibits, steps=3))
    assert_bases_agree(seen)
    assert [step.key_frame for step in seen[0].steps] == [True, False, False]
    first, second, third = (step.bytes_sent for step in seen[0].steps)  # since the run began
    return first, third - second


@pytest.mark.distributed
def test_coded_key_frames_save_most_of_the_first_step(tiny_sd3: Path) -> None:
    raw_key, int8_step = key_and_coded_bytes(tiny_sd3, 8000)
    coded_key, _ = key_and_coded_bytes(tiny_sd3, 2000)
    assert coded_key == int8_step
    assert coded_key < 0.4 * raw_key
