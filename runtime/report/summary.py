"""report.json: everything the report shows, as data. docs/report.md describes the fields."""

import dataclasses
import json
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from thinwire.runtime.facts import WindowFacts
from thinwire.runtime.output import read_metadata
from thinwire.runtime.report.story import Attempt, Story, ToldStep

SCHEMA = "thinwire.report/v1alpha1"
COMPARISON = Path(".thinwire/comparison.json")


def summarise(story: Story, output: Path) -> dict[str, Any]:
    """Return report.json's object for the run that left `story` in `output`. The same input gives the same object."""
    spec = story.spec
    prompts = [_prompt(story, output, prompt) for prompt in spec.get("generation", {}).get("prompts", [])]
    last = story.last_start
    return {
        "schema": SCHEMA,
        "job": {"name": spec.get("jobName", ""), "namespace": spec.get("namespace", "")},
        "complete": bool(prompts) and all(prompt["finished"] for prompt in prompts),
        "emulated": story.is_emulated,
        "emulated_link": spec.get("emulatedLink", []),
        "versions": dict(last.versions) if last else {},
        "world_size": last.world_size if last else 0,
        "kernel": last.kernel if last else "",
        "spec": {name: spec.get(name, {}) for name in ("model", "parallelism", "compression", "generation")},
        "ladder": [dataclasses.asdict(rung) for rung in last.ladder] if last else [],
        "prompts": prompts,
        "bytes": _bytes(story),
        "time": _time(story.steps),
        "max_relative_error": max((told.facts.max_relative_error for told in story.steps), default=0.0),
        "retunes": [dataclasses.asdict(retune) for retune in story.retunes],
        "links": _links(story.steps),
        "memory": {
            "base_memory_bytes": story.base_memory_bytes,
            "limit_mebibytes": spec.get("compression", {}).get("baseMemoryMebibytes", 0),
        },
        "counters": {
            "frames_refused": story.totals.frames_refused,
            "key_frames_forced": story.totals.key_frames_forced,
            "base_mismatches": story.totals.base_mismatches,
            "steps": sum(1 for _ in story.all_steps()),
            "steps_made_again": len(story.superseded),
            "unreadable_event_lines": story.unreadable_lines,
        },
        "attempts": [_attempt(attempt) for attempt in story.attempts],
        "restarts": max(0, len(story.attempts) - 1),
        "comparison": read_comparison(output),
        "steps": [_step(told) for told in story.steps],
    }


def read_comparison(output: Path) -> dict[str, Any] | None:
    """Return what `thinwire run --compare` stored, or None if nothing was compared.

    Raises:
        ValueError: the file is there and is not a JSON object.
    """
    try:
        text = (output / COMPARISON).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    comparison = json.loads(text)
    if not isinstance(comparison, dict):
        raise ValueError(f"expected an object in {output / COMPARISON}, got {text[:40]!r}")
    return comparison


def _prompt(story: Story, output: Path, prompt: Mapping[str, Any]) -> dict[str, Any]:
    name = prompt.get("name", "")
    path = output / "images" / f"{name}.png"
    video = f"videos/{name}.mp4"
    told = story.prompts_finished.get(name)
    return {
        "name": name,
        "prompt": prompt.get("prompt", ""),
        "negative_prompt": prompt.get("negativePrompt", ""),
        # protobuf JSON writes 64-bit numbers as strings and leaves out zeros.
        "seed": int(prompt.get("seed", 0)),
        "finished": path.exists(),
        "file": f"images/{name}.png" if path.exists() else None,
        "video": video if (output / video).exists() else None,
        # A kill right after the picture was put in its place leaves it without its line.
        "seconds": told.seconds if told and path.exists() else None,
        "rates": _rates_of(path),
    }


def _rates_of(path: Path) -> list[dict[str, Any]]:
    try:
        return [dataclasses.asdict(span) for span in read_metadata(path).rate_history]
    except (OSError, ValueError):
        return []


def _bytes(story: Story) -> dict[str, Any]:
    totals = story.totals
    coded = [told for told in story.all_steps() if not told.facts.key_frame]
    return {
        "sent": totals.bytes_sent,
        "uncompressed": totals.bytes_uncompressed,
        "uncompressed_fp16": totals.bytes_uncompressed_fp16,
        "counted_by_process_group": totals.bytes_counted,
        "ratio_to_uncompressed": _ratio(totals.bytes_sent, totals.bytes_uncompressed),
        "ratio_to_fp16": _ratio(totals.bytes_sent, totals.bytes_uncompressed_fp16),
        "ratio_to_fp16_without_key_frames": _ratio(
            sum(told.bytes_sent for told in coded), sum(told.bytes_uncompressed_fp16 for told in coded)
        ),
    }


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _time(steps: Sequence[ToldStep]) -> dict[str, Any]:
    if not steps:
        return {
            "median_step_seconds": None,
            "median_compute_seconds": None,
            "steps_seconds": 0.0,
            "compute_seconds": 0.0,
        }
    return {
        "median_step_seconds": statistics.median(told.facts.step_seconds for told in steps),
        "median_compute_seconds": statistics.median(told.facts.compute_seconds for told in steps),
        "steps_seconds": sum(told.facts.step_seconds for told in steps),
        "compute_seconds": sum(told.facts.compute_seconds for told in steps),
    }


def _links(steps: Sequence[ToldStep]) -> list[dict[str, Any]]:
    windows: dict[tuple[str, str], list[WindowFacts]] = defaultdict(list)
    for told in steps:
        for window in told.facts.windows:
            windows[window.link_class, window.operation].append(window)
    return [_link(*key, windows[key]) for key in sorted(windows)]


def _link(link_class: str, operation: str, windows: Sequence[WindowFacts]) -> dict[str, Any]:
    total_bytes = sum(window.sum_bytes for window in windows)
    total_seconds = sum(window.sum_seconds for window in windows)
    return {
        "link_class": link_class,
        "operation": operation,
        "exchanges": sum(window.count for window in windows),
        "bytes": total_bytes,
        "seconds": total_seconds,
        "bytes_per_second": _ratio(total_bytes, total_seconds),
        "hidden_share": _ratio(sum(window.hidden_seconds for window in windows), total_seconds),
        "encode_seconds": sum(window.encode_seconds for window in windows),
        "decode_seconds": sum(window.decode_seconds for window in windows),
        "millibits_per_value": _ratio(8000 * total_bytes, sum(window.values for window in windows)),
    }


def _attempt(attempt: Attempt) -> dict[str, Any]:
    end = attempt.finished
    return {
        "attempt": attempt.started.attempt,
        "started_time": attempt.started_time,
        "load_seconds": attempt.started.load_seconds,
        "seconds": end.seconds if end else attempt.last_time - attempt.started_time,
        "ended": "succeeded" if end and end.succeeded else "failed" if end else "cut short",
        "message": end.message if end else "",
        "prompts_finished_before": attempt.started.prompts_finished,
        "first_job_step": attempt.steps[0].facts.job_step if attempt.steps else None,
        "steps": len(attempt.steps),
        "versions": dict(attempt.started.versions),
    }


def _step(told: ToldStep) -> dict[str, Any]:
    facts = told.facts
    return {
        "attempt_index": told.attempt_index,
        "job_step": facts.job_step,
        "prompt": facts.prompt,
        "step": facts.step,
        "step_seconds": facts.step_seconds,
        "compute_seconds": facts.compute_seconds,
        "max_relative_error": facts.max_relative_error,
        "epoch": facts.epoch,
        "rates": dict(facts.rates),
        "key_frame": facts.key_frame,
        "bytes_sent": told.bytes_sent,
        "bytes_uncompressed": told.bytes_uncompressed,
        "windows": [dataclasses.asdict(window) for window in facts.windows],
    }
