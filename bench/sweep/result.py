"""The result file: raw figures of every run, kept as they come, so that a killed sweep goes on where it was."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from skimage.metrics import structural_similarity

from bench.about import about, origin
from bench.sweep.plan import Layout, Planned
from bench.sweep.run import Made, Setting
from thinwire.runtime.picture import Pixels


@dataclass(slots=True)
class ResultFile:
    """`told` is what the file holds. One process's pictures lie beside it, by prompt, made again if missing."""

    path: Path
    setting: Setting
    told: dict[str, Any]
    references: dict[int, Pixels] = field(default_factory=dict)
    commit: str = field(default_factory=lambda: origin()["commit"])

    @classmethod
    def taken_up(cls, path: Path, setting: Setting) -> ResultFile:
        """Read the file if there is one, else begin it. Raises ValueError for one of another setting."""
        plain = asdict(setting) | {"model": "emoji", "calibration": setting.is_calibrated}
        plain["prompts"] = list(setting.prompts)
        if not path.exists():
            told: dict[str, Any] = {"about": about(), "setting": plain, "layout": None, "runs": [], "failures": []}
            return cls(path, setting, told)
        told = json.loads(path.read_text())
        told.setdefault("failures", [])
        if told["setting"] != plain:
            raise ValueError(f"{path}: expected results of this setting, got another's; name another --output")
        file = cls(path, setting, told)
        if file._pixels.exists():
            with np.load(file._pixels) as stored:
                file.references = {int(name): stored[name] for name in stored.files}
        return file

    @property
    def layout(self) -> Layout | None:
        """What the ratios rest on, once it was measured."""
        return Layout(**self.told["layout"]) if self.told["layout"] else None

    def keep_layout(self, layout: Layout) -> None:
        """Fix what the ratios rest on, for good."""
        self.told["layout"] = asdict(layout)
        self._write()

    def has(self, run: Planned) -> bool:
        """Return whether a run is there already, or has failed."""
        return any(_is(told, run) for told in (*self.told["runs"], *self.told["failures"]))

    def forget_failures(self) -> None:
        """Have the runs that failed made again."""
        self.told["failures"] = []

    def keep_failure(self, run: Planned, cause: str) -> None:
        """Note that a run has failed, and why."""
        place = {"variant": run.variant.name, "ratio": run.ratio, "turn": run.turn}
        self.told["failures"].append({**place, "cause": cause})
        self._write()

    def has_reference(self, prompt: int) -> bool:
        """Return whether one process has made the picture of a prompt."""
        return prompt in self.references

    def keep_reference(self, prompt: int, pixels: Pixels) -> None:
        """Keep what one process made of a prompt."""
        self.references[prompt] = pixels
        by_name: dict[str, Any] = {str(number): kept for number, kept in self.references.items()}
        np.savez_compressed(self._pixels, **by_name)

    def keep(self, run: Planned, made: Made, interface_bytes: int) -> dict[str, Any]:
        """Add a run, with its pictures compared with one process's, and write everything down."""
        last = len(made.pictures) - 1
        pictures = []
        for number, (picture, pixels) in enumerate(zip(made.pictures, made.pixels, strict=True)):
            prompt = (run.turn - last + number) % len(self.setting.prompts)
            if run.ratio == 0.0:
                self.keep_reference(prompt, pixels)
            is_whole = run.made_steps(self.setting.steps) == self.setting.steps
            fidelity = _fidelity(pixels, self.references[prompt]) if is_whole else {}
            pictures.append({"prompt": prompt, **asdict(picture), **fidelity})
        layout = self.layout
        assert layout is not None
        told = {
            "variant": run.variant.name,
            "kind": str(run.variant.kind),
            "rung": run.variant.rung,
            "ratio": run.ratio,
            "bits_per_second": layout.bits_per_second(run.ratio) if run.ratio else 0,
            "turn": run.turn,
            "steps": run.made_steps(self.setting.steps),
            "commit": self.commit,
            "session_interface_bytes": interface_bytes,
            "pictures": pictures,
        }
        self.told["runs"].append(told)
        self._write()
        return told

    @property
    def _pixels(self) -> Path:
        return self.path.with_suffix(".references.npz")

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(self.told, separators=(",", ":")) + "\n")
        partial.rename(self.path)


def _is(told: dict[str, Any], run: Planned) -> bool:
    return (told["variant"], told["ratio"], told["turn"]) == (run.variant.name, run.ratio, run.turn)


def _fidelity(pixels: Pixels, reference: Pixels) -> dict[str, float | None]:
    """PSNR in dB (None: the same picture) and SSIM, on pictures in [0, 1] before they are rounded to 8 bits."""
    error = float(np.mean((pixels.astype(np.float64) - reference) ** 2))
    psnr = None if error == 0 else -10 * float(np.log10(error))
    ssim = float(structural_similarity(pixels, reference, channel_axis=2, data_range=1.0))
    return {"psnr_db": psnr, "ssim": ssim}
