"""What both ends predict from decoded history alone, channel by channel.

    order 0   p_t = b_{t-1}                             (CompactFusion, arXiv 2507.17511)
    order 1   p_t = b_{t-1} + a d_{t-1}                 a = 0.9 clamp(<d_t, d_{t-1}> / <d_{t-1}, d_{t-1}>, 0, 1)
    order 2   p_t = b_{t-1} + a d_{t-1} + c d_{t-2}     (a, c) by ridge-regularised least squares

d_t = b_t - b_{t-1}, decoded. The inner products run over the rows and are decayed sums over the steps, by 0.5 for
order 1 and 0.8 for order 2. Because the sums that order 2 needs are earlier values of <d_t, d_t> and <d_t, d_{t-1}>,
three new sums a step suffice: `sums` holds their history.
"""

import torch
from torch import Tensor

from thinwire.compression.sums import column_sums

HISTORY_SUMS = 6
SAME_NOW, SAME_BEFORE, SAME_EARLIER, NEXT_NOW, NEXT_BEFORE, SECOND_NOW = range(HISTORY_SUMS)
MAX_ORDER = 2

DECAY = (0.0, 0.5, 0.8)
DAMPING = 0.9
RIDGE = 1.0 / 64
SMALLEST_SUM = 2.0**-100
LARGEST_SUM = 2.0**122
LIMITS = (2.0, 1.0)  # of |a| and |c|


def _sane(coefficient_C: Tensor, usable_C: Tensor, low: float, high: float) -> Tensor:
    known = usable_C & (coefficient_C == coefficient_C)
    value_C = torch.where(known, coefficient_C, torch.zeros_like(coefficient_C))
    value_C = torch.where(value_C > low, value_C, torch.full_like(value_C, low))
    return torch.where(value_C > high, torch.full_like(value_C, high), value_C)


def coefficients(sums: Tensor, order: int) -> tuple[Tensor, ...]:
    """Return one [channels] float32 coefficient per past delta, newest first, from [6, channels] sums."""
    if order == 0:
        return ()
    if order == 1:
        energy_C = sums[SAME_BEFORE]
        usable_C = (energy_C > SMALLEST_SUM) & (energy_C <= LARGEST_SUM)
        return (_sane(sums[NEXT_NOW] / energy_C, usable_C, 0.0, 1.0) * DAMPING,)
    trace_C = sums[SAME_BEFORE] + sums[SAME_EARLIER]
    usable_C = (trace_C > SMALLEST_SUM) & (trace_C <= LARGEST_SUM)
    s11_C = sums[SAME_BEFORE] / trace_C + RIDGE
    s22_C = sums[SAME_EARLIER] / trace_C + RIDGE
    s12_C = sums[NEXT_BEFORE] / trace_C
    t1_C = sums[NEXT_NOW] / trace_C
    t2_C = sums[SECOND_NOW] / trace_C
    determinant_C = s11_C * s22_C - s12_C * s12_C
    first_C = (t1_C * s22_C - t2_C * s12_C) / determinant_C
    second_C = (t2_C * s11_C - t1_C * s12_C) / determinant_C
    return (
        _sane(first_C, usable_C, -LIMITS[0], LIMITS[0]),
        _sane(second_C, usable_C, -LIMITS[1], LIMITS[1]),
    )


def predict(base_RC: Tensor, deltas: tuple[Tensor, ...], sums: Tensor) -> Tensor:
    """Predict the next tensor from base and deltas (newest first), all [rows, channels] float32."""
    prediction_RC = base_RC
    for coefficient_C, delta_RC in zip(coefficients(sums, len(deltas)), deltas, strict=True):
        prediction_RC = prediction_RC + coefficient_C * delta_RC
    return prediction_RC


def advance(sums: Tensor, new_delta_RC: Tensor, deltas: tuple[Tensor, ...]) -> None:
    """Take one more decoded delta into `sums`, in place; `deltas` are the past ones, newest first."""
    order = len(deltas)
    if order == 0:
        return
    factors = (new_delta_RC, *deltas)
    fresh = column_sums(torch.stack([new_delta_RC * factor for factor in factors]))
    sums[SAME_EARLIER] = sums[SAME_BEFORE]
    sums[SAME_BEFORE] = sums[SAME_NOW]
    sums[NEXT_BEFORE] = sums[NEXT_NOW]
    for index, row in zip((SAME_NOW, NEXT_NOW, SECOND_NOW), fresh, strict=False):
        sums[index] = sums[index] * DECAY[order] + row
