from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d

from thinwire.runtime.collective import limit_waiting, tell
from thinwire.runtime.errors import BadInputError
from thinwire.runtime.process import STARTED_VARIABLE, TIMEOUT_VARIABLE, peer_timeout_seconds, tell_started


def test_a_silent_peer_is_given_a_minute_unless_the_environment_says_otherwise() -> None:
    assert peer_timeout_seconds({}) == 60.0
    assert peer_timeout_seconds({TIMEOUT_VARIABLE: "2.5"}) == 2.5


@pytest.mark.parametrize("text", ["soon", "0", "-1", "inf", "nan"])
def test_a_timeout_that_is_no_number_of_seconds_is_one_sentence(text: str) -> None:
    with pytest.raises(BadInputError, match=rf"{TIMEOUT_VARIABLE}: expected a number of seconds above 0, got '{text}'"):
        peer_timeout_seconds({TIMEOUT_VARIABLE: text})


def test_groups_within_the_group_give_up_a_silent_peer_in_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("default_pg_timeout", "default_pg_nccl_timeout"):
        monkeypatch.setattr(distributed_c10d, name, getattr(distributed_c10d, name))
    limit_waiting(7.0)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        backend = dist.new_group([0])._get_backend(torch.device("cpu"))
        assert backend.options._timeout == timedelta(seconds=7)
    finally:
        dist.destroy_process_group()


def test_alone_in_the_world_ones_own_word_is_the_word() -> None:
    assert tell(("", ["rocket"])) == ("", ["rocket"])


def test_ranks_that_are_ready_say_so_where_a_probe_looks_and_nowhere_else(tmp_path: Path) -> None:
    tell_started({})
    assert list(tmp_path.iterdir()) == []
    tell_started({STARTED_VARIABLE: str(tmp_path / "started")})
    assert (tmp_path / "started").exists()
