from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinwire.controller.kubernetes.merge import merged
from thinwire.controller.kubernetes.status import merge_patch

TABLE: dict[str, tuple[Any, Any, Any]] = {
    "maps merge": ({"a": 1, "b": {"c": 2}}, {"b": {"d": 3}}, {"a": 1, "b": {"c": 2, "d": 3}}),
    "a single value is replaced": ({"a": 1}, {"a": 2}, {"a": 2}),
    "a null takes a field away": ({"a": 1, "b": 2}, {"a": None}, {"b": 2}),
    "entries with a name merge by it, others are added": (
        {"containers": [{"name": "rank", "image": "x"}]},
        {"containers": [{"name": "side"}, {"name": "rank", "image": "y"}]},
        {"containers": [{"name": "rank", "image": "y"}, {"name": "side"}]},
    ),
    "mounts merge by their path, not by the volume's name": (
        {"volumeMounts": [{"name": "v", "mountPath": "/a"}]},
        {"volumeMounts": [{"name": "v", "mountPath": "/b"}, {"name": "w", "mountPath": "/a"}]},
        {"volumeMounts": [{"name": "w", "mountPath": "/a"}, {"name": "v", "mountPath": "/b"}]},
    ),
    "a list without names grows": (
        {"tolerations": [{"key": "a"}]},
        {"tolerations": [{"key": "a"}, {"key": "b"}]},
        {"tolerations": [{"key": "a"}, {"key": "b"}]},
    ),
    "a command is replaced as a whole": ({"command": ["a", "b"]}, {"command": ["c"]}, {"command": ["c"]}),
}


@pytest.mark.parametrize(("base", "over", "expected"), TABLE.values(), ids=TABLE.keys())
def test_merging(base: Any, over: Any, expected: Any):
    assert merged(base, over) == expected


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abcd"), inner, max_size=3),
    max_leaves=12,
)
WITHOUT_NULLS = st.recursive(
    st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abcd"), inner, max_size=3),
    max_leaves=12,
)
OBJECTS = st.dictionaries(st.sampled_from("abcd"), WITHOUT_NULLS, max_size=4)


def applied(target: Any, patch: Any) -> Any:
    """RFC 7396's own pseudo code."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = applied(result.get(name), value)
    return result


@given(OBJECTS, OBJECTS)
def test_a_merge_patch_makes_one_object_of_the_other(before: dict[str, Any], after: dict[str, Any]):
    assert applied(before, merge_patch(before, after)) == after


@given(OBJECTS)
def test_equal_objects_need_no_patch(same: dict[str, Any]):
    assert merge_patch(same, same) == {}
