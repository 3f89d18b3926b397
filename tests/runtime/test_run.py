import os
import re
import select
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest

from tests.runtime.facts_of_a_run import LINK, run_spec, spec_json
from tests.runtime.fake_session import FakeSession, Tellers
from thinwire.proto.thinwire.v1alpha1.run_spec_pb2 import RunSpec
from thinwire.runtime.errors import BadInputError
from thinwire.runtime.events import AttemptFinished, AttemptStarted, PromptFinished, read_events
from thinwire.runtime.facts import Retune, StepFacts, StepHooks
from thinwire.runtime.output import read_metadata
from thinwire.runtime.run import run_attempt

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model_index.json").write_text("{}")
    return tmp_path / "model"


def run_alone(spec: RunSpec, **session: object) -> FakeSession:
    opened: list[FakeSession] = []

    def open_session(spec: RunSpec, hooks: StepHooks) -> FakeSession:
        opened.append(FakeSession(spec, hooks, **session))
        return opened[0]

    run_attempt(spec, rank=0, open_session=open_session, tell=lambda verdict: verdict)
    return opened[0]


def test_a_run_leaves_pictures_and_the_whole_story(tmp_path: Path, model: Path) -> None:
    spec = run_spec(tmp_path / "out", model, prompts=3, steps=5)
    session = run_alone(spec)
    assert session.closed
    assert sorted(path.name for path in (tmp_path / "out/images").iterdir()) == [
        "grinning-face.png",
        "red-heart.png",
        "rocket.png",
    ]
    events = [record.event for record in read_events(tmp_path / "out/events.jsonl").records]
    kinds = Counter(type(event) for event in events)
    assert kinds == {AttemptStarted: 1, StepFacts: 15, Retune: kinds[Retune], PromptFinished: 3, AttemptFinished: 1}
    assert [event.job_step for event in events if isinstance(event, StepFacts)] == list(range(15))
    assert events[-1].succeeded


def test_a_picture_carries_the_rates_it_was_made_at(tmp_path: Path, model: Path) -> None:
    spec = run_spec(tmp_path / "out", model, prompts=3, steps=6)
    run_alone(spec)
    first = read_metadata(tmp_path / "out/images/grinning-face.png")
    assert first.rate_history[0].first_step == 0
    assert first.rate_history[0].rates == {LINK: 16000}
    assert first.rate_history[1].rates == {LINK: 8000}
    later = read_metadata(tmp_path / "out/images/rocket.png")
    assert later.rate_history[0].first_step == 0
    assert later.link_is_emulated


def test_a_second_run_makes_only_what_is_missing(tmp_path: Path, model: Path) -> None:
    spec = run_spec(tmp_path / "out", model, prompts=3, steps=4)
    run_alone(spec)
    (tmp_path / "out/images/red-heart.png").unlink()
    kept = (tmp_path / "out/images/rocket.png").stat().st_mtime_ns
    assert run_alone(spec).generated == [("red-heart", 8)]
    assert (tmp_path / "out/images/rocket.png").stat().st_mtime_ns == kept
    assert run_alone(spec).generated == []


def test_replicas_take_prompts_in_rounds_and_each_picture_lands_once(tmp_path: Path, model: Path) -> None:
    spec = run_spec(tmp_path / "out", model, prompts=3, steps=4)
    session = run_alone(spec, replicas=2)
    assert session.generated == [("grinning-face", 0), ("red-heart", 0), ("rocket", 8)]
    events = [record.event for record in read_events(tmp_path / "out/events.jsonl").records]
    finished = [event.prompt for event in events if isinstance(event, PromptFinished)]
    assert finished == ["grinning-face", "red-heart", "rocket"]
    assert read_metadata(tmp_path / "out/images/red-heart.png").rate_history[0].rates == {LINK: 16000}

    (tmp_path / "out/images/grinning-face.png").unlink()
    (tmp_path / "out/images/rocket.png").unlink()
    assert run_alone(spec, replicas=2).generated == [("grinning-face", 4), ("rocket", 4)]


def test_another_model_in_the_same_folder_is_refused(tmp_path: Path, model: Path) -> None:
    spec = run_spec(tmp_path / "out", model, prompts=1)
    run_alone(spec)
    (model / "model_index.json").write_text("{ }")
    with pytest.raises(BadInputError, match=r"grinning-face\.png was made from another model"):
        run_alone(spec)


def ranks(spec: RunSpec, count: int) -> tuple[dict[int, FakeSession], dict[int, BaseException]]:
    tellers, sessions, errors = Tellers(count), {}, {}

    def rank_thread(rank: int) -> None:
        def open_session(spec: RunSpec, hooks: StepHooks) -> FakeSession:
            sessions[rank] = FakeSession(spec, hooks, rank)
            return sessions[rank]

        try:
            run_attempt(spec, rank=rank, open_session=open_session, tell=tellers.of(rank))
        except BaseException as error:
            errors[rank] = error

    threads = [threading.Thread(target=rank_thread, args=(rank,)) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return sessions, errors


def test_every_rank_makes_the_same_prompts_at_the_same_steps(tmp_path: Path, model: Path) -> None:
    spec = run_spec(tmp_path / "out", model, prompts=3, steps=4)
    run_alone(spec)
    (tmp_path / "out/images/grinning-face.png").unlink()
    sessions, errors = ranks(spec, 3)
    assert not errors
    assert [session.generated for session in sessions.values()] == [[("grinning-face", 8)]] * 3


def test_what_rank_zero_refuses_ends_every_rank_with_the_same_sentence(tmp_path: Path, model: Path) -> None:
    (tmp_path / "out").write_text("a file")
    sessions, errors = ranks(run_spec(tmp_path / "out", model), 3)
    assert {str(error) for error in errors.values()} == {str(errors[0])}
    assert all(isinstance(errors[rank], BadInputError) for rank in range(3))
    assert all(session.closed and not session.generated for session in sessions.values())


def test_a_disk_that_fills_in_the_middle_ends_every_rank_and_keeps_what_is_done(tmp_path: Path, model: Path) -> None:
    spec = run_spec(tmp_path / "out", model, prompts=3, steps=2)
    (tmp_path / "out/images/.red-heart.png.partial").mkdir(parents=True)
    _, errors = ranks(spec, 2)
    assert [str(error).split(":")[0] for error in errors.values()] == [
        f"cannot write {tmp_path}/out/images/red-heart.png"
    ] * 2
    assert [path.name for path in (tmp_path / "out/images").glob("*.png")] == ["grinning-face.png"]
    last = read_events(tmp_path / "out/events.jsonl").records[-1].event
    assert isinstance(last, AttemptFinished)
    assert not last.succeeded
    assert "red-heart.png" in last.message


def in_a_process(spec: RunSpec, tmp_path: Path, **environment: str) -> "subprocess.Popen[bytes]":
    path = tmp_path / "run_spec.json"
    path.write_text(spec_json(spec))
    variables = {**os.environ, "THINWIRE_RUN_SPEC": str(path), "PYTHONPATH": str(REPOSITORY), **environment}
    command = [sys.executable, "-m", "tests.runtime.fake_session"]
    return subprocess.Popen(command, env=variables, cwd=REPOSITORY, stderr=subprocess.PIPE)


def test_bad_input_is_one_sentence_and_exit_code_2(tmp_path: Path, model: Path) -> None:
    spec = run_spec(tmp_path / "out", model, prompts=1)
    spec.generation.prompts[0].name = "../escape"
    process = in_a_process(spec, tmp_path)
    stderr = process.communicate()[1].decode()
    assert process.returncode == 2
    sentences = [line for line in stderr.splitlines() if line.startswith("thinwire: ")]
    assert len(sentences) == 1
    assert re.search(r"'\.\./escape' cannot name a picture, expected .*; rename it", sentences[0])
    assert "Traceback" not in stderr


def test_the_unexpected_is_a_traceback_and_exit_code_1(tmp_path: Path, model: Path) -> None:
    spec = run_spec(tmp_path / "out", model, prompts=3)
    process = in_a_process(spec, tmp_path, FAIL_AT="rocket")
    stderr = process.communicate()[1].decode()
    assert process.returncode == 1
    assert "Traceback" in stderr
    last = read_events(tmp_path / "out/events.jsonl").records[-1].event
    assert last.message == "RuntimeError: Connection closed by peer [127.0.0.1]:4242"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "cannot be read"),
        ("{", "is not a RunSpec of this version"),
        ('{"colour": 1}', "is not a RunSpec of this version"),
        ('{"outputDir": "out"}', "expected an absolute folder"),
        ('{"outputDir": "/out"}', "expected at least one prompt"),
        (
            '{"outputDir": "/out", "generation": {"steps": 1, "prompts": [{}]}, "telemetrySecurity": {"caFile": "/c"}}',
            "telemetrySecurity.tokenFile is '', expected an absolute file",
        ),
    ],
)
def test_a_spec_that_cannot_be_run_is_one_sentence(tmp_path: Path, content: str | None, expected: str) -> None:
    path = tmp_path / "run_spec.json"
    if content is not None:
        path.write_text(content)
    variables = {**os.environ, "THINWIRE_RUN_SPEC": str(path)}
    command = [sys.executable, "-m", "thinwire.runtime"]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("thinwire: ")
    assert expected in done.stderr
    assert done.stderr.count("\n") == 1


def test_killed_at_any_moment_every_picture_is_made_whole_and_never_again(tmp_path: Path, model: Path) -> None:
    spec = run_spec(tmp_path / "out", model, prompts=8, steps=2)
    drawn = tmp_path / "drawn.txt"
    finished: dict[str, bytes] = {}
    for kill in range(5):
        process = in_a_process(spec, tmp_path)
        before = drawn.read_bytes().count(b"\n") if drawn.exists() else 0
        while process.poll() is None and (not drawn.exists() or drawn.read_bytes().count(b"\n") <= before):
            threading.Event().wait(0.0005)
        # Not a wait for anything: the moment of the kill moves through the writing of a picture.
        threading.Event().wait(0.0007 * (kill))
        process.kill()
        process.communicate()
        for path in (tmp_path / "out/images").glob("*.png"):
            assert finished.setdefault(path.stem, path.read_bytes()) == path.read_bytes()
            assert read_metadata(path).name == path.stem
    last = in_a_process(spec, tmp_path)
    last.communicate()
    assert last.returncode == 0
    assert {path.stem for path in (tmp_path / "out/images").iterdir()} == {
        prompt.name for prompt in spec.generation.prompts
    }
    for name, content in finished.items():
        assert (tmp_path / f"out/images/{name}.png").read_bytes() == content


def test_a_rank_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    code = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", '''
from thinwire.runtime.process import die_with_parent
import time
die_with_parent()
print("ready", flush=True)
time.sleep(60)
'''], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
sys.stdin.read()
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stdin=subprocess.PIPE)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    descriptor = os.pidfd_open(child)
    parent.kill()
    parent.wait()
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    assert poll.poll(10_000), "the child outlived its parent"
    os.close(descriptor)
