import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.compression.attacks.frames import attacks
from tests.compression.cases import drifting, kernel_named, pair, rungs
from thinwire.compression import FrameError

SIZE = (3, 5)


def prepared(rung, kernel="native"):
    """A decoder that has seen one frame, and the next frame's bytes."""
    encoder, decoder = pair(*SIZE, decoder_kernel=kernel)
    first, second = drifting(*SIZE, torch.float32, 2)
    decoder.decode(encoder.encode(first, rung=rung, epoch=0, step=0).frame, rung=rung, epoch=0, step=0)
    return decoder, bytes(encoder.encode(second, rung=rung, epoch=0, step=1).frame.numpy())


def as_frame(data):
    return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)


@pytest.mark.parametrize("attack", list(attacks()), ids=lambda attack: f"{attack.rung.name}: {attack.name}")
@pytest.mark.parametrize("kernel", ["native", "eager"])
def test_an_attack_is_refused_for_what_it_is_and_changes_nothing(attack, kernel):
    decoder, frame = prepared(attack.rung, kernel)
    before = decoder.checksum()
    with pytest.raises(FrameError) as caught:
        decoder.decode(as_frame(attack.forge(frame)), rung=attack.rung, epoch=0, step=1)
    assert type(caught.value) is attack.refusal
    assert decoder.checksum() == before


@settings(max_examples=400)
@given(rungs, st.data())
def test_a_mutated_frame_is_never_accepted(rung, data):
    decoder, frame = prepared(rung)
    mutated = bytearray(frame)
    for _ in range(data.draw(st.integers(1, 4))):
        mutated[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    if bytes(mutated) == frame:
        return
    before = decoder.checksum()
    with pytest.raises(FrameError):
        decoder.decode(as_frame(bytes(mutated)), rung=rung, epoch=0, step=1)
    assert decoder.checksum() == before


@settings(max_examples=200)
@given(rungs, st.binary(max_size=200))
def test_noise_is_never_accepted(rung, noise):
    decoder, _ = prepared(rung)
    with pytest.raises(FrameError):
        decoder.decode(as_frame(noise), rung=rung, epoch=0, step=1)


@pytest.mark.parametrize("name", ["native", "eager"])
def test_a_storm_of_random_payloads_with_good_headers_never_gets_through(name):
    """Both kernels see the same storm; it must neither be taken in nor bring the process down."""
    kernel_named(name)
    generator = torch.Generator().manual_seed(0)
    for rung in (attack.rung for attack in attacks() if attack.name == "empty"):
        decoder, frame = prepared(rung, name)
        good = as_frame(frame)
        for _ in range(100):
            storm = good.clone()
            storm[40:] = torch.randint(0, 256, (len(frame) - 40,), generator=generator, dtype=torch.uint8)
            if torch.equal(storm, good):
                continue
            with pytest.raises(FrameError):
                decoder.decode(storm, rung=rung, epoch=0, step=1)
