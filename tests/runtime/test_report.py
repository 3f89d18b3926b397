import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from tests.runtime.facts_of_a_run import HIDDEN_SHARE, LINK, PROMPTS
from tests.runtime.output_of_a_run import FakeRun
from thinwire.runtime.errors import BadInputError
from thinwire.runtime.events import AttemptFinished, AttemptStarted, read_events
from thinwire.runtime.facts import StepFacts
from thinwire.runtime.report.__main__ import main, write_report
from thinwire.runtime.report.story import tell

STEPS = 12


def report_of(output: Path) -> tuple[dict, str]:
    write_report(output)
    return json.loads((output / "report.json").read_text()), (output / "report.html").read_text()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict, str]:
    output = tmp_path_factory.mktemp("whole")
    run = FakeRun(output, steps=STEPS)
    run.attempt(1)
    run.compare()
    return output, *report_of(output)


@pytest.fixture(scope="module")
def restarted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict, str]:
    output = tmp_path_factory.mktemp("restarted")
    run = FakeRun(output, steps=STEPS)
    run.attempt(1, killed_after=2 * STEPS + 5)
    run.attempt(2, first_prompt=2, killed_after=STEPS + 3, message="RuntimeError: Connection closed by peer")
    run.attempt(3, first_prompt=3)
    return output, *report_of(output)


def events_of(output: Path, kind: type) -> list:
    return [record.event for record in read_events(output / "events.jsonl").records if isinstance(record.event, kind)]


def test_the_report_of_a_whole_run_has_everything_asked_of_it(whole: tuple[Path, dict, str]) -> None:
    output, report, _ = whole
    assert report["job"] == {"name": "emoji", "namespace": "default"}
    assert report["complete"]
    assert report["versions"]["xfuser"] == "0.7.0"
    assert [(prompt["name"], prompt["seed"]) for prompt in report["prompts"]] == [
        (name, seed) for seed, (name, _) in enumerate(PROMPTS)
    ]
    assert report["prompts"][2]["file"] == "images/rocket.png"
    assert (output / report["prompts"][2]["file"]).exists()
    assert report["prompts"][2]["seconds"] == pytest.approx(10.0)
    assert len(report["steps"]) == 8 * STEPS
    assert [window["operation"] for window in report["steps"][0]["windows"]] == [
        "ring.all_gather",
        "ulysses.all_to_all",
    ]
    assert report["memory"]["base_memory_bytes"] == 19_200_000
    assert report["comparison"]["single"]["median_psnr_db"] == 43.2
    retune = report["retunes"][1]
    assert (retune["from_millibits"], retune["to_millibits"], retune["link_class"]) == (8000, 2000, LINK)
    assert retune["reason"].startswith(f"{LINK}: link fell to")
    assert retune["epoch"] == 2


def test_the_share_hidden_behind_computing_is_told_of_every_link(restarted: tuple[Path, dict, str]) -> None:
    _, report, page = restarted
    assert [link["hidden_share"] for link in report["links"]] == pytest.approx([HIDDEN_SHARE] * 2)
    assert page.count('<td class="n">38 %</td>') == 2


def test_bytes_are_those_of_the_last_step_of_every_attempt(restarted: tuple[Path, dict, str]) -> None:
    output, report, _ = restarted
    lasts = []
    for record in read_events(output / "events.jsonl").records:
        if isinstance(record.event, AttemptStarted):
            lasts.append(None)
        if isinstance(record.event, StepFacts):
            lasts[-1] = record.event
    assert report["bytes"]["sent"] == sum(last.bytes_sent for last in lasts)
    assert report["bytes"]["uncompressed_fp16"] == sum(last.bytes_uncompressed_fp16 for last in lasts)
    assert report["bytes"]["ratio_to_fp16"] == report["bytes"]["sent"] / report["bytes"]["uncompressed_fp16"]


def test_without_key_frames_the_ratio_is_that_of_the_rates(tmp_path: Path) -> None:
    run = FakeRun(tmp_path, prompts=1, steps=STEPS)
    run.attempt(1)
    report, _ = report_of(tmp_path)
    steps = [step for step in report["steps"] if not step["key_frame"]]
    expected = sum(step["rates"][LINK] for step in steps) / (16000 * len(steps))
    assert report["bytes"]["ratio_to_fp16_without_key_frames"] == pytest.approx(expected, rel=1e-6)


def test_steps_made_again_count_once_in_the_plots_and_twice_in_the_bytes(restarted: tuple[Path, dict, str]) -> None:
    output, report, _ = restarted
    assert [step["job_step"] for step in report["steps"]] == list(range(8 * STEPS))
    assert report["counters"]["steps"] == 8 * STEPS + 5 + 3
    assert report["counters"]["steps_made_again"] == 5 + 3
    again = report["steps"][2 * STEPS]
    assert (again["attempt_index"], again["prompt"]) == (1, "rocket")
    story = tell(read_events(output / "events.jsonl"))
    assert {told.attempt_index for told in story.superseded} == {0, 1}


def test_every_attempt_says_how_it_ended(restarted: tuple[Path, dict, str]) -> None:
    _, report, page = restarted
    assert report["restarts"] == 2
    assert [attempt["ended"] for attempt in report["attempts"]] == ["cut short", "failed", "succeeded"]
    assert report["attempts"][1]["message"] == "RuntimeError: Connection closed by peer"
    assert "RuntimeError: Connection closed by peer" in page
    assert "3 starts" in page


def test_a_run_that_is_not_done_shows_what_there_is(tmp_path: Path) -> None:
    run = FakeRun(tmp_path, prompts=4, steps=STEPS)
    run.attempt(1, killed_after=STEPS + 3)
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write('{"type":"step","time":17')
    report, page = report_of(tmp_path)
    assert not report["complete"]
    assert [prompt["finished"] for prompt in report["prompts"]] == [True, False, False, False]
    assert report["counters"]["unreadable_event_lines"] == 1
    assert "1 of 4 pictures so far" in page
    assert page.count("not made yet") == 3
    assert (tmp_path / "contact-sheet.png").exists()


def test_a_run_without_steps_has_a_report_without_plots(tmp_path: Path) -> None:
    run = FakeRun(tmp_path, prompts=2, steps=STEPS)
    run.attempt(1, killed_after=0)
    report, page = report_of(tmp_path)
    assert report["steps"] == []
    assert report["bytes"]["ratio_to_fp16"] is None
    assert "<svg" not in page


def test_a_picture_whose_line_was_lost_is_still_shown(tmp_path: Path) -> None:
    run = FakeRun(tmp_path, prompts=1, steps=STEPS)
    run.attempt(1)
    path = tmp_path / "events.jsonl"
    path.write_text("".join(line for line in path.open() if '"prompt_finished"' not in line))
    report, _ = report_of(tmp_path)
    assert report["complete"]
    assert report["prompts"][0]["seconds"] is None


class Page(HTMLParser):
    """Collects what a browser would fetch, and the tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.ids: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "data", "srcset") and value:
                self.sources.append(value)
            if name == "id" and value:
                self.ids.append(value)
        assert tag not in ("script", "link", "iframe", "object")


def test_the_page_needs_nothing_from_outside(whole: tuple[Path, dict, str]) -> None:
    page = Page(whole[2])
    assert all(source.startswith(("data:image/", "#")) for source in page.sources)
    assert "@import" not in whole[2]
    assert not re.search(r"url\((?!#)", whole[2])
    assert len(page.ids) == len(set(page.ids))


def test_every_plot_names_its_unit_and_marks_the_retunes(whole: tuple[Path, dict, str]) -> None:
    _, report, page = whole
    drawings = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    labels = [re.search(r'aria-label="([^"]*)"', drawing).group(1) for drawing in drawings]
    assert labels == [
        "Rate in bits per value over the steps of the job",
        "Link throughput in MB/s of each rank over the steps of the job",
        "Relative error in percent over the steps of the job",
        "Time of a step in seconds over the steps of the job",
    ]
    for drawing, unit in zip(drawings, ("bits per value", "MB/s of each rank", "percent", "seconds"), strict=True):
        texts = [
            "".join(node.itertext()).strip() for node in ET.fromstring(drawing).iter() if node.tag.endswith("text")
        ]
        assert unit in texts
        assert "step of the job" in texts
        assert {"1", "2", "3"} <= set(texts)
        assert "rocket" in texts
        assert "#0" not in drawing
    for retune in report["retunes"]:
        assert retune["reason"].replace(">", "&gt;") in page


def test_an_emulated_link_is_said_wherever_it_shows(whole: tuple[Path, dict, str]) -> None:
    _, report, page = whole
    assert report["emulated"]
    assert len(report["emulated_link"]) == 3
    assert page.count('class="badge warn">emulated link<') == 6
    run_on_a_real_link = page.replace("emulated", "")
    assert len(run_on_a_real_link) < len(page)


def test_prompts_cannot_break_the_page(whole: tuple[Path, dict, str]) -> None:
    assert "cat face, “smiling” &lt;b&gt;&amp;" in whole[2]
    assert "<b>&" not in whole[2]


def test_the_comparison_is_shown_side_by_side(whole: tuple[Path, dict, str], tmp_path: Path) -> None:
    assert "44.2 dB" in whole[2]
    assert "one process, plain diffusers" in whole[2]
    assert 'alt="rocket, same ranks, uncompressed"' in whole[2]
    assert "42.5 dB, SSIM 0.9900" in whole[2]
    assert "identical, SSIM 0.9900" in whole[2]
    run = FakeRun(tmp_path, prompts=1, steps=STEPS)
    run.attempt(1)
    assert report_of(tmp_path)[0]["comparison"] is None
    run.compare(["single"])
    _, page = report_of(tmp_path)
    assert "same ranks, uncompressed" not in page
    assert "one process, plain diffusers" in page


def test_a_job_without_coding_or_pacing_says_so_by_silence(tmp_path: Path) -> None:
    run = FakeRun(tmp_path, prompts=1, steps=STEPS)
    run.attempt(1)
    path = tmp_path / "events.jsonl"
    path.write_text(path.read_text().replace('"link_is_emulated":true', '"link_is_emulated":false'))
    report, page = report_of(tmp_path)
    assert not report["emulated"]
    assert "mulated" not in page


def test_the_contact_sheet_has_a_place_for_every_prompt(whole: tuple[Path, dict, str]) -> None:
    with Image.open(whole[0] / "contact-sheet.png") as sheet:
        assert sheet.width > 4 * 192
        colours = {sheet.getpixel((x, y)) for x in range(0, sheet.width, 7) for y in range(0, sheet.height, 7)}
    assert len(colours) > 8


def test_the_same_events_make_the_same_report(whole: tuple[Path, dict, str]) -> None:
    output, _, page = whole
    before = (output / "report.json").read_bytes()
    write_report(output)
    assert (output / "report.json").read_bytes() == before
    assert (output / "report.html").read_text() == page


def test_a_folder_without_a_run_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BadInputError, match="tells of no attempt, expected the output folder of a run"):
        write_report(tmp_path)
    run = FakeRun(tmp_path, prompts=1, steps=STEPS)
    run.attempt(1)
    (tmp_path / ".thinwire").mkdir()
    (tmp_path / ".thinwire/comparison.json").write_text("[")
    with pytest.raises(BadInputError, match="the comparison cannot be read"):
        write_report(tmp_path)
    assert main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("thinwire: the comparison cannot be read")


def test_attempts_end_with_their_own_seconds(whole: tuple[Path, dict, str]) -> None:
    output, report, _ = whole
    assert report["attempts"][0]["seconds"] == events_of(output, AttemptFinished)[0].seconds
