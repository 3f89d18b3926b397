"""Manifests and model folders for tests: small, valid, and easily spoilt in one place."""

from __future__ import annotations

import json
import struct
from copy import deepcopy
from pathlib import Path
from typing import Any

REMOVED = object()

MINIMAL: dict[str, Any] = {
    "apiVersion": "thinwire.dev/v1alpha1",
    "kind": "DiffusionJob",
    "metadata": {"name": "job"},
    "spec": {
        "model": {"source": {"bundled": "emoji"}},
        "gpus": 4,
        "accelerator": "cpu",
        "parallelism": {"ring": 2, "ulysses": 2},
        "generation": {
            "height": 64,
            "width": 64,
            "prompts": [{"name": "rocket", "prompt": "a rocket"}, {"name": "pizza", "prompt": "a pizza"}],
        },
    },
}


def manifest(changes: dict[str, Any] | None = None) -> dict[str, Any]:
    """The minimal manifest with some values set, or REMOVED, by dotted path; a number in it is a list's index."""
    raw = deepcopy(MINIMAL)
    for path, value in (changes or {}).items():
        *parents, last = (int(step) if step.isdecimal() else step for step in path.split("."))
        place: Any = raw
        for step in parents:
            place = place[step] if isinstance(step, int) else place.setdefault(step, {})
        if value is REMOVED:
            del place[last]
        else:
            place[last] = value
    return raw


def safetensors_bytes(tensors: dict[str, tuple[int, ...]], dtype: str = "F32", width_bytes: int = 4) -> bytes:
    """A whole safetensors file of zeros."""
    header, end = {}, 0
    for name, shape in tensors.items():
        size_bytes = width_bytes
        for side in shape:
            size_bytes *= side
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + size_bytes]}
        end += size_bytes
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(end)


def sd3_folder(
    folder: Path, *, heads: int = 8, patch: int = 1, positions: int = 16, t5: bool = False, layers: int = 2
) -> Path:
    """A model folder as whole as preflight can see: factor-4 VAE, 16 CLIP positions, text length 16."""
    encoders = ["text_encoder", "text_encoder_2", *(["text_encoder_3"] if t5 else [])]
    index: dict[str, Any] = {"_class_name": "StableDiffusion3Pipeline", "_diffusers_version": "0.42.1"}
    for name in ("transformer", "vae", *encoders):
        index[name] = ["diffusers", "SomeModel"]
        stem = "model" if name.startswith("text") else "diffusion_pytorch_model"
        write(folder / name / f"{stem}.safetensors", safetensors_bytes({"weight": (2, 3), "bias": (3,)}))
        write_json(folder / name / "config.json", {})
    for number in ("", "_2"):
        index[f"tokenizer{number}"] = ["transformers", "CLIPTokenizer"]
        write_json(folder / f"tokenizer{number}" / "tokenizer_config.json", {"model_max_length": 16})
    index["scheduler"] = ["diffusers", "FlowMatchEulerDiscreteScheduler"]
    write_json(folder / "scheduler" / "scheduler_config.json", {})
    if not t5:
        index["text_encoder_3"] = [None, None]
    write_json(
        folder / "transformer" / "config.json",
        {
            "num_layers": layers,
            "num_attention_heads": heads,
            "in_channels": 4,
            "attention_head_dim": 8,
            "patch_size": patch,
            "pos_embed_max_size": positions,
        },
    )
    write_json(folder / "vae" / "config.json", {"block_out_channels": [32, 64, 96]})
    write_json(folder / "thinwire.json", {"max_sequence_length": 16})
    write_json(folder / "model_index.json", index)
    return folder


def flux_folder(folder: Path, *, max_sequence_length: int = 16) -> Path:
    """The same for Flux: tokens of 8 pixels."""
    sd3_folder(folder)
    index = json.loads((folder / "model_index.json").read_text())
    write_json(folder / "model_index.json", {**index, "_class_name": "FluxPipeline"})
    write_json(
        folder / "transformer" / "config.json",
        {
            "num_layers": 1,
            "num_single_layers": 1,
            "num_attention_heads": 4,
            "in_channels": 16,
            "attention_head_dim": 16,
            "patch_size": 1,
        },
    )
    write_json(folder / "thinwire.json", {"max_sequence_length": max_sequence_length})
    return folder


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def write_json(path: Path, value: object) -> None:
    write(path, json.dumps(value).encode())
