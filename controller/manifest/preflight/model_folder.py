"""Is a model's folder whole, and what does its configuration say?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thinwire.controller.manifest.job import Model
from thinwire.controller.manifest.preflight.families import FAMILIES, NOT_RUN, Family, TextTokens, family_named
from thinwire.controller.manifest.preflight.location import field_of, located
from thinwire.controller.manifest.preflight.safetensors import Damage, tensors_in
from thinwire.controller.manifest.refusal import ManifestError, Refusal

SIDECAR = "thinwire.json"
CALIBRATION_FILE = "calibration.safetensors"
# The one file that a component without weights must have, by the beginning of its name.
_WITHOUT_WEIGHTS = {
    "tokenizer": "tokenizer_config.json",
    "scheduler": "scheduler_config.json",
    "feature_extractor": "preprocessor_config.json",
}


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a model's configuration says. `layers` are those with attention, `text_tokens` those that it sees.

    `token_pixels` is the side of an image token in pixels, `max_tokens_side` the largest picture's side in tokens, None
    for no limit; `prompt_tokens` is how many tokens of a prompt the model reads at most. `latent_channels` are what a
    guidance branch brings, `token_latents` the latents of one channel in a token; `calibrated` whether a calibration
    lies beside it, which brings transform rungs.
    """

    folder: Path
    family: Family
    layers: int
    heads: int
    head_dim: int
    token_pixels: int
    max_tokens_side: int | None
    text_tokens: int
    prompt_tokens: int
    latent_channels: int
    token_latents: int
    frames_per_latent: int = 1
    latent_frames_per_token: int = 1
    calibrated: bool = False

    def latent_frames(self, frames: int) -> int:
        """Return the latent frames of a video: its first frame has one of its own."""
        return (frames - 1) // self.frames_per_latent + 1

    def token_frames(self, frames: int) -> int:
        """Return the frames of tokens of a video."""
        return -(-self.latent_frames(frames) // self.latent_frames_per_token)


def read_model(model: Model) -> ModelFacts | None:
    """Check the model and read its facts; None where only a cluster has it.

    Raises:
        ManifestError: with every reason why the folder cannot be run.
    """
    folder = located(model.source)
    if folder is None:
        return None
    return _Folder(folder, model).facts()


class _Folder:
    """One look at a model's folder; collects every reason against it."""

    def __init__(self, folder: Path, model: Model) -> None:
        self.folder = folder
        self.model = model
        self.field = field_of(model.source)
        self.refusals: list[Refusal] = []

    def facts(self) -> ModelFacts:
        index = self.json("model_index.json")
        if index is None:
            raise ManifestError(self.refusals)
        family = self.family(index)
        components = {name: entry for name, entry in index.items() if isinstance(entry, list) and len(entry) == 2}
        present = [name for name, entry in components.items() if None not in entry]
        for name in family.required:
            if name not in present:
                self.refuse(f"a component {name} in {self.folder / 'model_index.json'}", "none", "take a whole model")
        for name in present:
            self.component(name)
        if self.refusals:
            raise ManifestError(self.refusals)
        facts = self.configured(family, has_t5="text_encoder_3" in present)
        if facts is None or self.refusals:
            raise ManifestError(self.refusals)
        return facts

    def family(self, index: Mapping[str, Any]) -> Family:
        named = str(index.get("_class_name", "nothing"))
        family = family_named(named)
        if family is None:
            supported = ", ".join(family.pipeline for family in FAMILIES)
            got = f"{named} ({NOT_RUN[named]})" if named in NOT_RUN else named
            raise ManifestError(
                [Refusal(self.field, f"a pipeline of one of the classes {supported}", got, "choose another model")]
            )
        if self.model.pipeline not in (None, named):
            got = str(self.model.pipeline)
            raise ManifestError(
                [Refusal("spec.model.pipeline", f"{named}, the model's class", got, "remove the field")]
            )
        return family

    def component(self, name: str) -> None:
        folder = self.folder / name
        if not folder.is_dir():
            self.refuse(f"a folder {folder}", "nothing there", "copy the model again")
            return
        for beginning, config in _WITHOUT_WEIGHTS.items():
            if name.startswith(beginning):
                self.json(f"{name}/{config}")
                return
        self.json(f"{name}/config.json")
        self.weights(folder)

    def weights(self, folder: Path) -> None:
        indexes = sorted(folder.glob("*.safetensors.index.json"))
        if indexes:
            self.shards(folder, indexes[0])
            return
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            others = any(folder.glob("*.bin")) or any(folder.glob("*.pt"))
            got = "pickled weights, which can run any code" if others else "none"
            remedy = "convert them: save_pretrained(..., safe_serialization=True)" if others else "copy the model again"
            self.refuse(f"weights (*.safetensors) in {folder}", got, remedy)
        for file in files:
            self.whole(file)

    def shards(self, folder: Path, index: Path) -> None:
        read = self.json(str(index.relative_to(self.folder)))
        places = read.get("weight_map") if read is not None else None
        if not isinstance(places, dict) or not all(isinstance(file, str) for file in places.values()):
            if read is not None:
                self.refuse(f"a weight_map in {index}", "none", "copy the model again")
            return
        for file in sorted(set(places.values())):
            if Path(file).name != file:
                self.refuse(f"files of {folder} in {index}", f'"{file}"', "copy the model again")
            elif not (folder / file).is_file():
                self.refuse(f"the file {folder / file}", "nothing there", "copy the model again")
            elif (names := self.whole(folder / file)) is not None:
                lost = sorted(name for name, place in places.items() if place == file and name not in names)
                if lost:
                    self.refuse(f"the tensor {lost[0]} in {folder / file}", "none", "copy the model again")

    def whole(self, file: Path) -> frozenset[str] | None:
        found = tensors_in(file)
        if isinstance(found, Damage):
            self.refuse(found.expected, found.got, found.remedy)
            return None
        return found

    def configured(self, family: Family, *, has_t5: bool) -> ModelFacts | None:
        transformer, vae = self.json("transformer/config.json") or {}, self.json("vae/config.json") or {}
        tokenizer = self.json("tokenizer/tokenizer_config.json") or {}
        heads = self.number(transformer, "transformer/config.json", "num_attention_heads")
        head_dim = self.number(transformer, "transformer/config.json", "attention_head_dim")
        layers = self.layers(family, transformer)
        patch = self.patch(transformer)
        latent_channels = self.latent_channels(transformer)
        channels = vae.get("block_out_channels", (0, 0, 0, 0))
        length = self.sequence_length(family)
        if heads is None or head_dim is None or layers is None or patch is None or length is None:
            return None
        if latent_channels is None:
            return None
        if not isinstance(channels, list | tuple):
            return None
        has_clip = family.text is TextTokens.CLIP_AND_T5
        clip_tokens = tokenizer.get("model_max_length", 77) if has_clip else 0
        limit = transformer.get("pos_embed_max_size")
        frames = 1
        if family.makes_video:
            key = "scale_factor_temporal" if "scale_factor_temporal" in vae else "temporal_compression_ratio"
            frames = self.number(vae, "vae/config.json", key, 4) or 1
        named = ("scale_factor_spatial", "spatial_compression_ratio")
        latent_pixels = next((vae[key] for key in named if vae.get(key)), 2 ** (len(channels) - 1))
        return ModelFacts(
            folder=self.folder,
            family=family,
            layers=layers,
            heads=heads,
            head_dim=head_dim,
            token_pixels=latent_pixels * patch * family.latents_per_token,
            max_tokens_side=limit if isinstance(limit, int) else None,
            text_tokens=0 if family.text is TextTokens.NONE else clip_tokens + length,
            prompt_tokens=length if has_t5 or not has_clip else clip_tokens,
            latent_channels=latent_channels,
            token_latents=patch * patch,
            frames_per_latent=frames,
            latent_frames_per_token=transformer.get("patch_size_t") or 1,
            calibrated=(self.folder / CALIBRATION_FILE).is_file(),
        )

    def layers(self, family: Family, transformer: Mapping[str, Any]) -> int | None:
        """Add up the transformer's attention layers: a configuration counts them, or lists those of a kind."""
        total = 0
        for key in family.layer_counts:
            value = transformer.get(key, 0)
            count = len(value) if isinstance(value, list) else value
            if not isinstance(count, int) or isinstance(count, bool) or count < 0:
                expected = f"{key} to count layers in {self.folder / 'transformer/config.json'}"
                self.refuse(expected, json.dumps(value), "correct it")
                return None
            total += count
        return total

    def patch(self, transformer: Mapping[str, Any]) -> int | None:
        """Return the side of a token in latents; a video's patch is (frames, rows, columns)."""
        size = transformer.get("patch_size", 1)
        return self.number(
            {"patch_size": size[-1]} if isinstance(size, list) and size else transformer,
            "transformer/config.json",
            "patch_size",
            1,
        )

    def latent_channels(self, transformer: Mapping[str, Any]) -> int | None:
        """Return what a guidance branch brings: as many channels as the transformer reads, unless it says otherwise."""
        key = "out_channels" if transformer.get("out_channels") else "in_channels"
        return self.number(transformer, "transformer/config.json", key)

    def sequence_length(self, family: Family) -> int | None:
        if not (self.folder / SIDECAR).exists():
            return family.default_max_sequence_length
        sidecar = self.json(SIDECAR)
        if sidecar is None:
            return None
        return self.number(sidecar, SIDECAR, "max_sequence_length", family.default_max_sequence_length)

    def number(self, config: Mapping[str, Any], file: str, key: str, default: int | None = None) -> int | None:
        value = config.get(key, default)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
        self.refuse(f"{key} to be a positive integer in {self.folder / file}", json.dumps(value), "correct it")
        return None

    def json(self, name: str) -> dict[str, Any] | None:
        path = self.folder / name
        try:
            read = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            self.refuse(f"the file {path}", "nothing there", "name a whole model in diffusers' format")
            return None
        except OSError as error:
            self.refuse(f"a readable {path}", (error.strerror or "an error").lower(), "check its rights")
            return None
        except (ValueError, RecursionError):
            self.refuse(f"JSON in {path}", "something else", "copy the model again")
            return None
        if not isinstance(read, dict):
            self.refuse(f"a JSON object in {path}", "something else", "copy the model again")
            return None
        return read

    def refuse(self, expected: str, got: str, remedy: str) -> None:
        refusal = Refusal(self.field, expected, got, remedy)
        if refusal not in self.refusals:
            self.refusals.append(refusal)
