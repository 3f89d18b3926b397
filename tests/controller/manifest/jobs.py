"""Random valid manifests."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

NAMES = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,12}[a-z0-9])?", fullmatch=True)
TEXTS = st.text(min_size=1, max_size=40).filter(lambda text: text.strip(" \t\r\n") != "")


def optional(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=fields)


@st.composite
def manifests(draw: st.DrawFn) -> dict[str, Any]:
    """Every field of the spec in turns, degrees and limits that fit."""
    degrees = draw(optional(ulysses=st.integers(1, 4), ring=st.integers(1, 4), data=st.integers(1, 3)))
    gpus = 1
    for degree in degrees.values():
        gpus *= degree
    spec: dict[str, Any] = {
        "model": {"source": draw(sources()), **draw(optional(dtype=st.sampled_from(["Auto", "float32", "bfloat16"])))},
        "gpus": gpus,
        "gpusPerPod": draw(st.sampled_from([part for part in range(1, gpus + 1) if gpus % part == 0])),
        "parallelism": degrees,
        "generation": draw(generations()),
    }
    spec |= draw(
        optional(
            accelerator=st.sampled_from(["cpu", "nvidia.com/gpu", "amd.com/gpu"]),
            compression=compressions(),
            runPolicy=optional(suspend=st.booleans(), maxRestarts=st.integers(0, 100)),
            podTemplate=optional(spec=st.dictionaries(NAMES, st.integers(), max_size=2)),
        )
    )
    name = draw(st.from_regex(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?", fullmatch=True))
    metadata = {"name": name, **draw(optional(namespace=NAMES))}
    return {"apiVersion": "thinwire.dev/v1alpha1", "kind": "DiffusionJob", "metadata": metadata, "spec": spec}


def sources() -> st.SearchStrategy[dict[str, Any]]:
    return st.one_of(
        st.fixed_dictionaries({"bundled": NAMES}),
        st.fixed_dictionaries({"path": st.sampled_from(["/models/a", "a/b"])}),
        st.fixed_dictionaries({"persistentVolumeClaim": st.fixed_dictionaries({"claimName": NAMES})}),
        st.just({"huggingFace": {"repo": "a/b", "tokenSecretRef": {"name": "token"}}}),
    )


@st.composite
def compressions(draw: st.DrawFn) -> dict[str, Any]:
    least, most = sorted((draw(st.integers(100, 32000)), draw(st.integers(100, 32000))))
    mode = draw(st.sampled_from(["Adaptive", "Fixed", "Off"]))
    rate = {"minMillibits": most if mode == "Fixed" else least, "maxMillibits": most}
    more = optional(
        targetStallPercent=st.integers(0, 1000),
        maxRelativeErrorMilli=st.integers(1, 1000),
        warmupSteps=st.just(1),
        baseMemoryMebibytes=st.integers(0, 1 << 20),
        predictorOrder=st.integers(0, 2),
    )
    return {"mode": mode, "rate": rate, **draw(more)}


@st.composite
def generations(draw: st.DrawFn) -> dict[str, Any]:
    prompt = st.fixed_dictionaries(
        {"name": NAMES, "prompt": TEXTS},
        optional={"negativePrompt": st.text(max_size=20), "seed": st.integers(0, (1 << 53) - 1)},
    )
    prompts = draw(st.lists(prompt, min_size=1, max_size=4, unique_by=lambda entry: entry["name"]))
    sides = st.integers(2, 1024).map(lambda eighths: 8 * eighths)
    more = optional(steps=st.integers(2, 1000), guidanceScaleMilli=st.integers(1000, 30000), height=sides, width=sides)
    return {"prompts": prompts, **draw(more)}
