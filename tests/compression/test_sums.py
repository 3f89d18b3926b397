import torch
from hypothesis import given

from tests.compression.cases import seeds, shapes
from thinwire.compression.sums import column_sums, row_sums, total_sum


def one_by_one(rows):
    """The order of the additions, spelled out in single float32 additions."""
    lanes = [torch.zeros(()) for _ in range(16)]
    for index, value in enumerate(rows):
        lanes[index % 16] = lanes[index % 16] + value
    while len(lanes) > 1:
        half = len(lanes) // 2
        lanes = [lanes[index] + lanes[index + half] for index in range(half)]
    return lanes[0]


@given(shapes, seeds)
def test_sums_are_close_to_exact(shape, seed):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    assert torch.allclose(row_sums(x), x.double().sum(1).float(), atol=1e-4)
    assert torch.allclose(column_sums(x), x.double().sum(0).float(), atol=1e-4)


def test_rows_are_summed_in_sixteen_lanes_and_folded():
    x = torch.randn(3, 53, generator=torch.Generator().manual_seed(1)) * 1e3
    assert torch.equal(row_sums(x), torch.stack([one_by_one(row) for row in x]))
    assert torch.equal(total_sum(x[0]), one_by_one(x[0]))


def test_channels_are_summed_in_blocks_of_sixty_four_rows():
    x = torch.randn(150, 3, generator=torch.Generator().manual_seed(1)) * 1e3
    total = torch.zeros(3)
    for block in x.split(64):
        partial = torch.zeros(3)
        for row in block:
            partial = partial + row
        total = total + partial
    assert torch.equal(column_sums(x), total)
