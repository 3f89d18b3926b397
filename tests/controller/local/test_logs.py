from __future__ import annotations

from pathlib import Path

import pytest

from thinwire.controller.local.logs import Ending, read_ending, read_progress

SUMMARY = """\
E1123 11:00:00 14722 torch/distributed/elastic/multiprocessing/api.py:1002] failed (exitcode: {code}) local_rank: 1
Traceback (most recent call last):
  File "<frozen runpy>", line 198, in _run_module_as_main
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
============================================================
thinwire.runtime FAILED
------------------------------------------------------------
Failures:
[1]:
  time      : 2026-11-23_11:00:00
  host      : localhost
  rank      : 0 (local_rank: 0)
  exitcode  : -15 (pid: 14802)  (SIGTERM)
  error_file: <N/A>
  traceback : Signal 15 (SIGTERM) received by PID 14802
------------------------------------------------------------
Root Cause (first observed failure):
[0]:
  time      : 2026-11-23_11:00:00
  host      : localhost
  rank      : 1 (local_rank: 1)
  exitcode  : {code} (pid: 14803)
  error_file: <N/A>
============================================================
"""


def log_of(folder: Path, code: int, stderr: dict[int, str]) -> Path:
    (folder / "torchrun.log").write_text(SUMMARY.format(code=code))
    for rank, text in stderr.items():
        place = folder / "job-1_x" / "attempt_0" / str(rank)
        place.mkdir(parents=True)
        (place / "stderr.log").write_text(text)
    return folder


def test_success_has_nothing_to_say(tmp_path: Path):
    assert read_ending(tmp_path, 0) == Ending(0, "")


def test_the_first_rank_that_failed_is_named_with_its_last_words(tmp_path: Path):
    log = log_of(tmp_path, 1, {0: "", 1: "Traceback\n  File x\nRuntimeError: boom\n\n"})
    assert read_ending(log, 1) == Ending(1, "rank 1 ended with exit code 1: RuntimeError: boom", 1)


def test_a_sentence_for_the_user_is_taken_from_whichever_rank_says_it(tmp_path: Path):
    log = log_of(tmp_path, 2, {0: "noise\nthinwire: heart.png was made from another prompt; remove it\n", 1: "noise\n"})
    assert read_ending(log, 1) == Ending(2, "heart.png was made from another prompt; remove it", 1)


@pytest.mark.parametrize(("code", "name"), [(-9, "SIGKILL"), (-11, "SIGSEGV"), (-99, "signal 99")])
def test_a_signal_is_named(tmp_path: Path, code: int, name: str):
    assert read_ending(log_of(tmp_path, code, {}), 1) == Ending(code, f"rank 1 was ended by {name}", 1)


def test_a_torchrun_that_fails_itself_is_quoted(tmp_path: Path):
    (tmp_path / "torchrun.log").write_text("/usr/bin/python: No module named torch\n")
    assert read_ending(tmp_path, 1) == Ending(1, "/usr/bin/python: No module named torch")


def test_silence_is_said(tmp_path: Path):
    assert read_ending(tmp_path, -9) == Ending(-9, "torchrun ended with SIGKILL and said nothing")


def test_progress_of_loading_is_the_newest_that_rank_0_has_said(tmp_path: Path):
    lines = [
        f"timestamp=x level=info event=model.loading component={name} number={at} total=11"
        for at, name in enumerate("ab", 1)
    ]
    log = log_of(tmp_path, 1, {0: "\n".join(lines), 1: ""})
    assert read_progress(log) == "loading the model: b, 2 of 11"
    assert read_progress(tmp_path / "none") == ""
