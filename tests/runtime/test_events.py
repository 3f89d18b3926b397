import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.runtime.facts_of_a_run import run_facts, run_spec, steps_of
from thinwire.runtime.events import (
    AttemptFinished,
    AttemptStarted,
    EventLog,
    PromptFinished,
    Record,
    from_line,
    read_events,
    to_line,
)
from thinwire.runtime.facts import Retune, StepFacts
from thinwire.runtime.files import OutputError

FINISHED = Record(2.0, PromptFinished("red-heart", 1, "images/red-heart.png", 12.5))


def started() -> Record:
    facts = run_facts()
    event = AttemptStarted(
        1, facts.versions, 4, {"jobName": "emoji"}, facts.ladder, facts.rates, 100, "eager", True, prompts_finished=2
    )
    return Record(1.5, event)


def a_step() -> StepFacts:
    return next(iter(steps_of(run_spec(Path("/out"), Path("/model")))))


def test_every_event_survives_its_line() -> None:
    retune = Retune(5, "red-heart", 1, 2, "intra-node", 8000, 2000, "the link fell")
    for event in (started().event, a_step(), retune, FINISHED.event, AttemptFinished(1, False, "no space", 3.0)):
        record = Record(4.25, event)
        assert from_line(to_line(record)) == record


def test_a_line_says_its_type_and_time() -> None:
    raw = json.loads(to_line(Record(4.25, a_step())))
    assert raw["type"] == "step"
    assert raw["time"] == 4.25
    assert raw["windows"][0]["operation"] == "ring.all_gather"
    assert "retunes" not in raw


@given(st.text(), st.integers(0, 2**63 - 1), st.floats(0, 1e9))
def test_whatever_a_prompt_is_called_it_stays_on_one_line(name: str, seed: int, seconds: float) -> None:
    name = name.encode("utf-8", "replace").decode()
    record = Record(0.0, PromptFinished(name, seed, f"images/{name}.png", seconds))
    assert "\n" not in to_line(record)
    assert from_line(to_line(record)) == record


@given(st.integers(1))
def test_a_file_cut_anywhere_gives_every_whole_line(cut: int) -> None:
    lines = [to_line(started()), to_line(FINISHED), to_line(FINISHED)]
    content = "".join(line + "\n" for line in lines).encode()
    kept = content[: cut % (len(content) + 1)]
    path = Path(os.environ.get("TMPDIR", "/tmp")) / f"events-{os.getpid()}.jsonl"
    path.write_bytes(kept)
    try:
        reading = read_events(path)
        # A line that lacks nothing but its end is whole.
        whole = sum(kept.startswith("\n".join(lines[:count]).encode()) for count in (1, 2, 3))
        assert len(reading.records) == whole
        assert reading.unreadable_lines <= 1
    finally:
        path.unlink()


def test_a_new_attempt_closes_the_line_that_the_killed_one_left_open(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text(to_line(started()) + "\n" + to_line(FINISHED)[:20])
    log = EventLog(path)
    log.append(FINISHED)
    log.sync()
    log.close()
    reading = read_events(path)
    assert reading.records == [started(), FINISHED]
    assert reading.unreadable_lines == 1


def test_lines_from_a_later_version_are_counted_and_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    known = json.loads(to_line(FINISHED)) | {"colour": "blue"}
    strange = ['{"type":"fanfare","time":1}', "[]", "7", '{"type":"step","time":1}', '{"type":"step"}', "\0\0"]
    path.write_text("\n".join([*strange, json.dumps(known), ""]))
    reading = read_events(path)
    assert reading.records == [FINISHED]
    assert reading.unreadable_lines == len(strange)


def test_no_file_is_no_events(tmp_path: Path) -> None:
    assert read_events(tmp_path / "events.jsonl").records == []


def test_a_log_that_cannot_be_opened_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"cannot write .*events\.jsonl"):
        EventLog(tmp_path / "missing" / "events.jsonl")


def test_lines_survive_a_kill_right_after_append(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    code = f"""
        import os, signal
        from pathlib import Path
        from thinwire.runtime.events import EventLog, PromptFinished, Record
        log = EventLog(Path({str(path)!r}))
        for seed in range(50):
            log.append(Record(1.0, PromptFinished("p", seed, "images/p.png", 1.0)))
        os.kill(os.getpid(), signal.SIGKILL)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False)
    reading = read_events(path)
    assert [record.event.seed for record in reading.records if isinstance(record.event, PromptFinished)] == [*range(50)]
    assert reading.unreadable_lines == 0
