import torch

from tests.compression.cases import kernel_named
from thinwire.compression import LADDER, measure_ladder, true_millibits


def test_every_rung_is_measured_with_its_true_rate():
    costs = measure_ladder(kernel_named("native"), 16, 32, torch.float32, budget_seconds=0.0)
    assert [cost.rung for cost in costs] == list(LADDER)
    for cost in costs:
        assert cost.millibits == true_millibits(cost.rung, 16, 32, torch.float32)
        assert 0 < cost.encode_seconds_per_value < 1
        assert 0 < cost.decode_seconds_per_value < 1
