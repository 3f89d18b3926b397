"""OUT folders as runs leave them, without running anything."""

import json
from collections.abc import Sequence
from pathlib import Path

from google.protobuf import json_format

from tests.runtime.facts_of_a_run import LINK, picture, run_facts, run_spec, steps_of
from thinwire.proto.thinwire.v1alpha1.run_spec_pb2 import RunSpec
from thinwire.runtime.events import AttemptFinished, AttemptStarted, Event, EventLog, PromptFinished, Record
from thinwire.runtime.facts import StepFacts
from thinwire.runtime.output import OutputFolder, PictureMetadata, RateSpan, identity_of


class FakeRun:
    """Writes events a third of a second apart, and pictures, as rank 0 would."""

    def __init__(self, output: Path, *, prompts: int = 8, steps: int = 28) -> None:
        self.spec: RunSpec = run_spec(output, output / "model", prompts=prompts, steps=steps)
        del self.spec.emulated_link[:]
        for rate, start in (
            (200_000_000, 0),
            (20_000_000, int(0.3 * prompts * steps)),
            (200_000_000, int(0.6 * prompts * steps)),
        ):
            self.spec.emulated_link.add(bits_per_second=rate, from_step=start)
        self.folder = OutputFolder(output)
        self.folder.prepare()
        self._log = EventLog(self.folder.events)
        self._time = 1_790_000_000.0

    def append(self, event: Event) -> None:
        self._time += 0.35
        self._log.append(Record(self._time, event))

    def attempt(
        self, number: int, *, first_prompt: int = 0, killed_after: int | None = None, message: str = ""
    ) -> None:
        """Run from `first_prompt`; `killed_after` that many steps there is neither a picture nor an end."""
        facts = run_facts()
        spec = json_format.MessageToDict(self.spec)
        self.append(
            AttemptStarted(
                number, facts.versions, 4, spec, facts.ladder, facts.rates, 19_200_000, "eager", True, first_prompt, 7.5
            )
        )
        for count, step in enumerate(steps_of(self.spec, first_prompt=first_prompt)):
            if count == killed_after:
                if message:
                    self.append(AttemptFinished(number, False, message, 0.35 * count))
                return
            self._step(step)
        self.append(AttemptFinished(number, True, "", 99.5))

    def _step(self, step: StepFacts) -> None:
        self.append(step)
        for retune in step.retunes:
            self.append(retune)
        if step.step == self.spec.generation.steps - 1:
            prompt = next(prompt for prompt in self.spec.generation.prompts if prompt.name == step.prompt)
            metadata = PictureMetadata(
                prompt.name,
                "emoji",
                identity_of(prompt, self.spec, "sha256:0"),
                (RateSpan(0, {LINK: 8000}),),
                run_facts().versions,
                link_is_emulated=True,
            )
            file = self.folder.write(picture(prompt.seed), metadata).relative_to(self.folder.root).as_posix()
            self.append(PromptFinished(prompt.name, prompt.seed, file, 9.8 + 0.1 * prompt.seed))

    def compare(self, kinds: Sequence[str] = ("uncompressed", "single")) -> None:
        content = {
            kind: {
                "seconds": 160.0 + 40 * number,
                "bytes_sent": 4_300_000_000 if kind == "uncompressed" else 0,
                "median_psnr_db": 44.2 - number,
                "min_psnr_db": 38.5,
                "median_ssim": 0.9953,
                "min_ssim": 0.981,
                "title": {"uncompressed": "same ranks, uncompressed", "single": "one process, plain diffusers"}[kind],
                "pictures": [
                    {"name": prompt.name, "psnr_db": None if prompt.seed == 1 else 40.5 + prompt.seed, "ssim": 0.99}
                    for prompt in self.spec.generation.prompts
                ],
            }
            for number, kind in enumerate(kinds)
        }
        for kind in kinds:
            images = self.folder.root / ".thinwire/compare" / kind / "images"
            images.mkdir(parents=True)
            for prompt in self.spec.generation.prompts:
                picture(prompt.seed).save(images / f"{prompt.name}.png")
        path = self.folder.root / ".thinwire/comparison.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))
