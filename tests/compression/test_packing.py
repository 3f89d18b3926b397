import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from thinwire.compression.errors import PayloadError
from thinwire.compression.packing import BITS_1, BITS_2, BITS_4, BITS_8, TRITS, pack, packed_bytes, unpack

LAYOUTS = {2: (BITS_1,), 3: (TRITS,), 4: (BITS_2,), 8: (BITS_2, BITS_1), 16: (BITS_4,), 256: (BITS_8,)}


@given(st.sampled_from(sorted(LAYOUTS)), st.data())
def test_codes_survive_packing(levels, data):
    codes = torch.tensor(data.draw(st.lists(st.integers(0, levels - 1), max_size=50)), dtype=torch.int16)
    packed = pack(LAYOUTS[levels], codes)
    assert packed.numel() == packed_bytes(LAYOUTS[levels], codes.numel())
    assert torch.equal(unpack(LAYOUTS[levels], packed, codes.numel()), codes)


def test_a_plane_puts_codes_a_stride_apart_into_one_byte():
    packed = pack((BITS_2,), torch.tensor([1, 2, 3, 0, 1, 2], dtype=torch.int16))
    assert packed.tolist() == [1 | 3 << 2 | 1 << 4, 2 | 0 << 2 | 2 << 4]
    assert pack((TRITS,), torch.tensor([2, 1, 0, 2, 1], dtype=torch.int16)).tolist() == [2 + 3 + 2 * 27 + 81]


@pytest.mark.parametrize(
    ("planes", "count", "packed"),
    [
        ((BITS_1,), 3, [0b1000]),
        ((BITS_2,), 3, [0xC0]),
        ((BITS_4,), 1, [0x10]),
        ((TRITS,), 4, [81]),
        ((TRITS,), 5, [243]),
    ],
)
def test_what_no_encoder_writes_is_refused(planes, count, packed):
    with pytest.raises(PayloadError):
        unpack(planes, torch.tensor(packed, dtype=torch.uint8), count)
