"""Jobs of the tests on the real cluster: the in-box model on two ranks in two pods."""

from __future__ import annotations

from typing import Any

WORDS = ("rocket", "cherries", "ghost", "sunflower", "rainbow", "red heart", "cat face", "grinning face")
FIXED = {"mode": "Fixed", "rate": {"minMillibits": 4000, "maxMillibits": 4000}, "maxRelativeErrorMilli": 900}
"""Nothing adapts: a job's pictures are the same, bit by bit, whatever happened to its ranks between them."""
SHORT_STEPS = 12
"""Steps of a picture where it is not the steps that matter."""
ADAPTIVE = {"mode": "Adaptive", "targetStallPercent": 100, "rate": {"minMillibits": 1000, "maxMillibits": 16000}}


def job(
    name: str, claim: str, *, prompts: int, steps: int, compression: dict[str, Any], **policy: Any
) -> dict[str, Any]:
    """A job whose pictures go into a folder of its own name on the claim."""
    texts = [WORDS[number % len(WORDS)] for number in range(prompts)]
    return {
        "apiVersion": "thinwire.dev/v1alpha1",
        "kind": "DiffusionJob",
        "metadata": {"name": name},
        "spec": {
            "model": {"source": {"bundled": "emoji"}},
            "gpus": 2,
            "accelerator": "cpu",
            "parallelism": {"ring": 2},
            "compression": compression,
            "generation": {
                "steps": steps,
                "guidanceScaleMilli": 3000,
                "height": 64,
                "width": 64,
                "prompts": [
                    {"name": f"{number:03}-{text.replace(' ', '-')}", "prompt": text, "seed": number}
                    for number, text in enumerate(texts)
                ],
            },
            "output": {"persistentVolumeClaim": {"claimName": claim}},
            **({"runPolicy": policy} if policy else {}),
        },
    }
