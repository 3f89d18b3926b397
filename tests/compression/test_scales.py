import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from thinwire.compression.scales import inverse_step_table, nearest_codes, step_table, upward_codes

ratios = st.floats(0.0, 1.0, width=32)


def test_steps_are_sixteenths_of_an_octave_below_one():
    steps = step_table()
    assert steps[0] == 0
    assert steps[255] == 1
    assert steps[255 - 16] == 0.5
    for code in range(1, 256):
        assert math.isclose(float(steps[code]), 2 ** ((code - 255) / 16), rel_tol=1e-7)
        assert math.isclose(float(steps[code] * inverse_step_table()[code]), 1, rel_tol=1e-6)


@given(ratios)
def test_the_nearest_step_is_within_half_a_step(ratio):
    for squared in (False, True):
        value = torch.tensor([ratio * ratio if squared else ratio], dtype=torch.float32)
        step = float(step_table()[nearest_codes(value, squared=squared).long()][0])
        smallest = float(step_table()[1])
        if ratio >= smallest:
            assert abs(math.log2(step / ratio)) <= 0.5 / 16 + 1e-5
        elif ratio < smallest * 2 ** (-0.51 / 16):
            assert step == 0


@given(ratios)
def test_the_step_above_is_the_smallest_that_is_not_below(ratio):
    value = torch.tensor([ratio], dtype=torch.float32)
    code = int(upward_codes(value)[0])
    assert float(step_table()[code]) >= ratio * (1 - 1e-7)
    if code > 1:
        assert float(step_table()[code - 1]) < ratio * (1 + 1e-7)
    assert (code == 0) == (float(value) == 0)
