from __future__ import annotations

import io

import pytest
from rich.console import Console

from thinwire.controller.cli.display import LiveDisplay, PlainDisplay, display_for
from thinwire.controller.cli.progress import TimeLeft, duration, rate, size, steps_done, steps_total
from thinwire.proto.thinwire.v1alpha1 import status_pb2 as pb


def running(job_step: int, prompts_done: int = 0, **changed: object) -> pb.JobStatus:
    job = pb.JobStatus(
        namespace="default",
        name="emoji",
        state=pb.JOB_STATE_RUNNING,
        prompts_done=prompts_done,
        prompts_total=8,
        prompt_name="rocket",
        step=job_step % 28 + 1,
        steps=28,
        job_step=job_step,
        links=[pb.LinkStatus(link_class="intra-node", millibits=2145, throughput_bytes_per_second=12.3e6)],
        max_relative_error=0.043,
        step_seconds=0.5,
        last_reason="intra-node carries 12.3 MB/s",
        bytes_sent=1_000_000,
        bytes_uncompressed=8_000_000,
    )
    for name, value in changed.items():
        setattr(job, name, value)
    return job


@pytest.mark.parametrize(
    ("seconds", "words"), [(None, "–"), (0.2, "0 s"), (59.4, "59 s"), (61, "1 min 01 s"), (3700, "1 h 01 min")]
)
def test_seconds_are_said_as_a_person_says_them(seconds: float | None, words: str):
    assert duration(seconds) == words


def test_bytes_keep_three_figures():
    assert [size(count) for count in (12, 1234, 787e6, 2.38e9)] == ["12 B", "1.23 kB", "787 MB", "2.38 GB"]


def test_steps_count_finished_prompts_also_where_no_step_was_reported():
    assert steps_done(running(29, prompts_done=1)) == 30
    assert steps_done(running(0, prompts_done=3, step=0)) == 84
    assert steps_total(running(0)) == 224


def test_link_classes_are_named_only_where_there_are_several():
    job = running(3)
    assert rate(job) == "2.145 bits"
    job.links.add(link_class="inter-node", millibits=1145)
    assert rate(job) == "2.145 bits intra-node, 1.145 bits inter-node"


def test_time_left_follows_the_pace_and_never_goes_below_zero():
    left = TimeLeft()
    assert left.after(running(0), 0.0) is None
    assert left.after(running(1), 2.0) == pytest.approx(2.0 * 222)
    assert left.after(running(1), 5.0) == pytest.approx(2.0 * 222 - 3.0)
    assert left.after(running(1), 9999.0) == 0.0


def test_plain_lines_say_what_is_new_and_nothing_twice(capsys: pytest.CaptureFixture[str]):
    with PlainDisplay("emoji") as display:
        display.show(None, "")
        display.show(running(3), "")
        display.show(running(4), "")
        job = running(30, prompts_done=1)
        job.retunes.add(job_step=29, link_class="intra-node", from_millibits=32000, to_millibits=2145, reason="why")
        display.show(job, "")
        display.show(job, "the controller has not answered for 5 s")
        display.show(job, "")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "emoji: running"
    assert "emoji: step 29: intra-node 32 -> 2.145 bits: why" in lines
    assert any("1 of 8 prompts" in line for line in lines)
    assert lines[-2:] == ["emoji: the controller has not answered for 5 s", "emoji: the controller answers again"]
    assert len(lines) == len(set(lines))


def test_the_live_panel_shows_every_figure():
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with LiveDisplay(console, "emoji") as display:
        display.show(None, "")
        job = running(30, prompts_done=1, link_is_emulated=True, restarts=1)
        job.links[0].hidden_share = 0.63
        display.show(job, "the controller hangs")
    assert isinstance(console.file, io.StringIO)
    drawn = console.file.getvalue()
    for figure in (
        "emoji · running",
        "1 of 8 done",
        "rocket, step 3 of 28",
        "2.145 bits per value",
        "12.3 MB/s intra-node (emulated)",
        "63 % of the transfers' time, behind computing",
        "4.3 %",
        "1 MB of 8 MB (12.5 %)",
        "restarts",
        "rate: intra-node carries 12.3 MB/s",
        "the controller hangs",
    ):
        assert figure in drawn


def test_where_output_is_no_terminal_lines_are_printed():
    assert isinstance(display_for(Console(file=io.StringIO()), "x"), PlainDisplay)
    assert isinstance(display_for(Console(file=io.StringIO(), force_terminal=True), "x"), LiveDisplay)
