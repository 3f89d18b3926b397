import multiprocessing
import os
from pathlib import Path

import pytest
import structlog
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.compression.cases import (
    base_formats,
    drifting,
    dtypes,
    fixed_rungs,
    kernel_named,
    orders,
    pair,
    same_bits,
    seeds,
    shapes,
)
from thinwire.compression import LADDER, RAW, RUNGS, Basis, choose_kernel, rung_named
from thinwire.compression.kernels import build
from thinwire.compression.kernels.native import load_native_kernel

PLAIN_BASIS = Basis(*(torch.eye(16).repeat(3, 1, 1),) * 2, torch.zeros(48, dtype=torch.int16))


@settings(max_examples=60)
@given(shapes, dtypes, orders, base_formats, st.lists(fixed_rungs, min_size=1, max_size=5), seeds)
def test_the_native_kernel_writes_the_bits_of_the_reference(shape, dtype, order, form, sequence, seed):
    native = pair(*shape, dtype, order=order, base_format=form, decoder_kernel="eager")
    eager = pair(*shape, dtype, order=order, base_format=form, encoder_kernel="eager", decoder_kernel="native")
    for step, (x, rung) in enumerate(zip(drifting(*shape, dtype, len(sequence), seed), sequence, strict=True)):
        said = {"rung": rung, "epoch": 0, "step": step, "key_frame": step == 0 and rung.carries_key_frames}
        fast, reference = native[0].encode(x, **said), eager[0].encode(x, **said)
        assert torch.equal(fast.frame, reference.frame)
        assert fast.relative_error == pytest.approx(reference.relative_error, rel=1e-3, abs=1e-6)
        arrived = [decoder.decode(fast.frame, **said) for decoder in (native[1], eager[1])]
        assert same_bits(*arrived)
        assert len({end.checksum() for end in (*native, *eager)}) == 1
        assert same_bits(native[1].prediction(), eager[1].prediction())


@settings(max_examples=60)
@given(shapes, dtypes, orders, base_formats, st.lists(st.sampled_from(RUNGS), min_size=1, max_size=5), seeds)
def test_both_kernels_read_one_frame_of_any_rung_alike(shape, dtype, order, form, sequence, seed):
    encoder, native = pair(*shape, dtype, order=order, base_format=form)
    _, eager = pair(*shape, dtype, order=order, base_format=form, decoder_kernel="eager")
    for step, (x, rung) in enumerate(zip(drifting(*shape, dtype, len(sequence), seed), sequence, strict=True)):
        said = {"rung": rung, "epoch": 0, "step": step, "key_frame": step % 3 == 0 and rung.carries_key_frames}
        frame = encoder.encode(x, **said).frame
        assert same_bits(native.decode(frame, **said), eager.decode(frame, **said))
        assert encoder.checksum() == native.checksum() == eager.checksum()


@pytest.mark.parametrize("shape", [(130, 16), (65, 300), (1, 1024), (257, 17)])
def test_kernels_agree_across_blocks_and_lanes(shape):
    native, eager = pair(*shape, encoder_kernel="native")[0], pair(*shape, encoder_kernel="eager")[0]
    for step, x in enumerate(drifting(*shape, torch.float32, 14)):
        said = {"rung": LADDER[step % len(LADDER)], "epoch": 0, "step": step}
        assert torch.equal(native.encode(x, **said).frame, eager.encode(x, **said).frame)
    assert native.checksum() == eager.checksum()


@pytest.mark.parametrize("power", [-20, -40, -70, -100, -126])
@pytest.mark.parametrize("rung", ["int8", "bits2", "bits1", "transform-1000"])
def test_the_relative_error_of_a_quiet_tensor_is_the_reference_s(power, rung):
    first, second = drifting(64, 48, torch.float32, 2)
    found = []
    for kernel in ("native", "eager"):
        encoder, _ = pair(64, 48, encoder_kernel=kernel, basis=PLAIN_BASIS)
        encoder.encode(first * 2.0**power, rung=RAW, epoch=0, step=0, key_frame=True)
        sent = encoder.encode(second * 2.0**power, rung=rung_named(rung), epoch=0, step=1)
        found.append(sent.relative_error)
    assert found[0] == pytest.approx(found[1], rel=1e-3)
    assert found[0] > 0


def test_a_quiet_tensor_after_a_loud_one_tells_its_relative_error():
    loud, quiet = torch.full((64, 48), 2.0**40), torch.full((64, 48), 2.0**-60)
    found = []
    for kernel in ("native", "eager"):
        encoder, _ = pair(64, 48, encoder_kernel=kernel)
        encoder.encode(loud, rung=RAW, epoch=0, step=0, key_frame=True)
        found.append(encoder.encode(quiet, rung=rung_named("int4"), epoch=0, step=1).relative_error)
    assert found[0] == pytest.approx(found[1], rel=1e-3)


def test_kernels_have_one_fingerprint():
    assert kernel_named("native").fingerprint == kernel_named("eager").fingerprint
    assert kernel_named("eager").fingerprint.startswith("codec-")


def test_an_unknown_kernel_is_refused():
    with pytest.raises(ValueError, match="expected native, triton or eager, got 'fortran'"):
        choose_kernel("fortran")


@pytest.fixture
def empty_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "thinwire"


def test_without_a_compiler_the_reference_serves_and_the_log_says_why(monkeypatch, empty_cache):
    monkeypatch.setattr(build.shutil, "which", lambda name: None)
    with structlog.testing.capture_logs() as logs:
        assert choose_kernel("native").name == "eager"
    assert [(entry["event"], entry["instead"]) for entry in logs] == [("native_kernel_unavailable", "eager")]
    assert "no C compiler found" in logs[0]["reason"]


def fake_compiler(tmp_path, script):
    path = tmp_path / "cc"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_a_compiler_that_fails_is_quoted(monkeypatch, tmp_path, empty_cache):
    monkeypatch.setenv("CC", fake_compiler(tmp_path, '[ "$1" = --version ] && exit 0; echo "no such flag" >&2; exit 1'))
    with pytest.raises(build.BuildError, match="no such flag"):
        load_native_kernel()
    assert not list(empty_cache.glob("*.so"))


WRITES_SOMETHING = 'while [ "$1" != -o ]; do shift; done; echo library > "$2"'


def test_a_kernel_that_computes_other_bits_is_rejected_and_not_kept(monkeypatch, tmp_path, empty_cache):
    def reject(path: Path) -> None:
        assert path.exists()
        raise build.BuildError("other bits")

    monkeypatch.setenv("CC", fake_compiler(tmp_path, f'[ "$1" = --version ] && exit 0; {WRITES_SOMETHING}'))
    with pytest.raises(build.BuildError, match="other bits"):
        build.built_library(reject)
    assert not list(empty_cache.glob("*.so"))


def test_a_cache_that_cannot_be_written_is_named(monkeypatch, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    with pytest.raises(build.BuildError, match="cannot be used as a cache"):
        load_native_kernel()


def build_into(compiler: str, cache: str, queue: "multiprocessing.Queue[str]") -> None:
    os.environ["CC"], os.environ["XDG_CACHE_HOME"] = compiler, cache
    queue.put(str(build.built_library(lambda path: None)))


def test_ranks_that_start_together_build_once(tmp_path):
    log = tmp_path / "builds"
    compiler = fake_compiler(tmp_path, f'[ "$1" = --version ] && exit 0; echo built >> {log}; {WRITES_SOMETHING}')
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    ranks = [context.Process(target=build_into, args=(compiler, str(tmp_path / "cache"), queue)) for _ in range(4)]
    for rank in ranks:
        rank.start()
    libraries = {queue.get(timeout=60) for _ in ranks}
    for rank in ranks:
        rank.join(timeout=60)
    assert len(libraries) == 1
    assert Path(libraries.pop()).read_text() == "library\n"
    assert log.read_text() == "built\n"
