"""Read a manifest's YAML as `kubectl` would, with the line of every field, and refuse what is not one document."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from thinwire.controller.manifest.refusal import ManifestError, Refusal

MAX_FILE_BYTES = 1_500_000
MAX_NODES = 200_000
MAX_DEPTH = 64
_TAG = "tag:yaml.org,2002:"
_KINDS = {yaml.MappingNode: "a map", yaml.SequenceNode: "a list", yaml.ScalarNode: "a single value"}


@dataclass(frozen=True, slots=True)
class Document:
    """A manifest as plain data, and the line (from 1) of every field by its path, such as spec.gpus."""

    raw: dict[str, Any]
    lines: dict[str, int]

    def line_of(self, field: str) -> int | None:
        """Line of `field`, or of the nearest field around it that the file has."""
        path = field
        while path:
            if path in self.lines:
                return self.lines[path]
            path = re.sub(r"(\[\d+\]|\.[^.\[]*|^[^.\[]*)$", "", path)
        return None


def load(path: Path) -> dict[str, Any]:
    """Read one manifest as plain data; ManifestError says why a file is none."""
    return load_document(path).raw


def load_document(path: Path) -> Document:
    """Read one manifest with the lines of its fields; ManifestError says why a file is none."""
    return parse(_read(path))


def parse(text: str) -> Document:
    """Read one manifest from `text`; ManifestError says why it is none."""
    try:
        return _only_document(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "file"
        raise _error(where, "YAML", error.problem or error.context or "something else", "mend the file there") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        got = f"the character #x{ord(text[error.position]):04x}"
        raise _error(f"line {line}", "YAML text", got, "remove it") from None
    except RecursionError:
        raise _error("file", f"at most {MAX_DEPTH} levels", "more", "flatten it") from None


def parse_list(text: str) -> list[Any]:
    """Read a YAML list from `text`; ManifestError says why it is none."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError) as error:
        raise _error("file", "YAML", " ".join(str(error).split())[:200], "mend it there") from None
    if not isinstance(node, yaml.SequenceNode):
        raise _error("file", "a list", _KINDS[type(node)] if node else "an empty text", "begin each entry with a dash")
    found: list[Any] = _Reader().value(node, "", 0)
    return found


def _only_document(text: str) -> Document:
    nodes = [node for node in yaml.compose_all(text, Loader=yaml.SafeLoader) if not _is_empty(node)]
    if len(nodes) != 1:
        what = f"{len(nodes)} documents" if nodes else "an empty file"
        remedy = "put each into a file of its own" if nodes else "examples/emoji.yaml shows one"
        raise _error("file", "one DiffusionJob", what, remedy)
    if not isinstance(nodes[0], yaml.MappingNode):
        raise _error("file", "a DiffusionJob", _KINDS[type(nodes[0])], "examples/emoji.yaml shows one")
    reader = _Reader()
    return Document(reader.mapping(nodes[0], "", 0), reader.lines)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        got = (error.strerror or "an error").lower()
        raise _error("file", "a manifest that can be read", got, "check its path and its rights") from None
    if len(data) > MAX_FILE_BYTES:
        raise _error(
            "file", f"at most {MAX_FILE_BYTES} bytes", "more", "a cluster takes no larger objects: split the job"
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _error(f"line {line}", "UTF-8 text", f"the byte 0x{data[error.start]:02x}", "save it as UTF-8") from None


def _error(field: str, expected: str, got: str, remedy: str) -> ManifestError:
    return ManifestError([Refusal(field, expected, got, remedy)])


def _is_empty(node: yaml.Node | None) -> bool:
    return node is None or (node.tag == _TAG + "null" and node.value in ("", "~", "null"))


class _Reader:
    """Turns YAML nodes into the data that `kubectl` would send: dates and base 60 of YAML 1.1 stay strings."""

    def __init__(self) -> None:
        self.lines: dict[str, int] = {}
        self._nodes = 0
        self._merged: set[int] = set()

    def value(self, node: yaml.Node, path: str, depth: int) -> Any:
        self._nodes += 1
        if self._nodes > MAX_NODES or depth > MAX_DEPTH:
            expected = f"at most {MAX_NODES} values in {MAX_DEPTH} levels"
            raise _error(f"line {node.start_mark.line + 1}", expected, "more", "remove the aliases that multiply it")
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, path, depth)
        if isinstance(node, yaml.SequenceNode):
            return [self.item(child, f"{path}[{index}]", depth + 1) for index, child in enumerate(node.value)]
        return self.scalar(node)

    def item(self, node: yaml.Node, path: str, depth: int) -> Any:
        self.lines.setdefault(path, node.start_mark.line + 1)
        return self.value(node, path, depth)

    def mapping(self, node: yaml.MappingNode, path: str, depth: int) -> dict[str, Any]:
        self.merge(node, path)
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            child = _join(path, key_node.value)
            self.lines[child] = key_node.start_mark.line + 1
            found[str(key_node.value)] = self.value(value_node, child, depth + 1)
        return found

    def merge(self, node: yaml.MappingNode, path: str) -> None:
        """Resolve the merge keys of a mapping, once however many aliases lead to it, and refuse fields given twice."""
        if id(node) in self._merged:
            return
        self._merged.add(id(node))
        seen: set[str] = set()
        for key_node, _ in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                remedy = "write a single word before the colon"
                raise _error(f"line {line}", "a field's name", _KINDS[type(key_node)], remedy)
            if key_node.value in seen:
                field = _join(path, key_node.value)
                raise _error(field, "every field once", f"it again on line {line}", "remove one of the two")
            seen.add(key_node.value)
        _Merger().flatten_mapping(node)

    def scalar(self, node: yaml.Node) -> Any:
        tag, text = node.tag, str(node.value)
        if tag == _TAG + "null":
            return None
        if tag == _TAG + "bool":
            return text.lower() in ("yes", "true", "on")
        if tag == _TAG + "int":
            return _integer(text)
        if tag == _TAG + "float":
            return _number(text)
        if tag in (_TAG + "str", _TAG + "timestamp", _TAG + "value"):
            return text
        line = f"line {node.start_mark.line + 1}"
        raise _error(line, "plain YAML", f"the tag {tag.replace(_TAG, '!!')}", "remove the tag")


class _Merger(yaml.SafeLoader):
    """Only lends `flatten_mapping` to nodes that were composed already."""

    def __init__(self) -> None:
        super().__init__("")


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _integer(text: str) -> int | str:
    digits = text.replace("_", "")
    octal = re.fullmatch(r"([-+]?)0([0-7]+)", digits)
    try:
        return int(f"{octal[1]}0o{octal[2]}" if octal else digits, 0)
    except ValueError:  # base 60, or a tag that does not fit
        return text


def _number(text: str) -> float | int | str:
    plain = text.replace("_", "").lower()
    try:
        number = float(plain.replace(".inf", "inf").replace(".nan", "nan"))
    except ValueError:  # base 60, or a tag that does not fit
        return text
    return int(number) if number.is_integer() else number
