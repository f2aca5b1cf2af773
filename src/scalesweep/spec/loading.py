"""YAML with line numbers, and nothing that runs code.

Only plain mappings, lists and scalars are read. Booleans are `true` and `false` alone (YAML 1.1 reads a label `no` as
false), and `1e-5` is a number (YAML 1.1 reads it as text). A duplicate key is an error, not a silent overwrite.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from scalesweep.errors import Problem, SpecError

KeyPath = tuple[str | int, ...]


def key_text(path: KeyPath) -> str:
    """('a', 'b', 0) → 'a.b[0]'."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else (f".{part}" if text else part)
    return text


@dataclass
class Document:
    """A parsed file: plain data, and the line of every key path."""

    file: str
    data: Any
    lines: dict[KeyPath, int] = field(default_factory=dict)

    def line(self, path: KeyPath) -> int | None:
        """The line of the longest known prefix of `path`."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path)

    def problem(self, path: KeyPath, message: str, hint: str = "") -> Problem:
        return Problem(message=message, key=key_text(path), file=self.file, line=self.line(path), hint=hint)


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {
        first: [(tag, regexp) for tag, regexp in resolvers if not tag.endswith((":bool", ":float", ":timestamp", ":int"))]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?[0-9][0-9_]*$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+|\.[0-9]+(?:[eE][-+]?[0-9]+)?"
        r"|\.inf|\.Inf|\.INF)$|^\.nan$|^\.NaN$"
    ),
    list("-+0123456789."),
)
_PLAIN_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("map", "seq", "str", "int", "float", "bool", "null")}


def parse_yaml(text: str, file: str) -> Document:
    """Parse `text` into plain data with line numbers.

    Raises:
        SpecError: not YAML, a tag, an alias loop, a duplicate key or a key that is not text.
    """
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        what = getattr(error, "problem", None) or str(error).splitlines()[0]
        line = mark.line + 1 if mark else None
        hint = "check the indentation, brackets and quotes around this line; values that hold ': ' need quotes"
        raise SpecError([Problem(f"not valid YAML: {what}", file=file, line=line, hint=hint)]) from None
    document = Document(file=file, data=None)
    document.data = _build(node, (), document, open_nodes=frozenset()) if node is not None else None
    return document


def _build(node: yaml.Node, path: KeyPath, document: Document, open_nodes: frozenset[int]) -> Any:
    line = node.start_mark.line + 1
    document.lines.setdefault(path, line)
    if node.tag not in _PLAIN_TAGS:
        hint = "write plain values; tags are never run"
        raise SpecError([Problem(f"the YAML tag {node.tag!r} is not allowed", key_text(path), document.file, line, hint)])
    if id(node) in open_nodes:
        raise SpecError([Problem("an alias refers to itself", key_text(path), document.file, line, "write the value out")])
    open_nodes |= {id(node)}
    if isinstance(node, yaml.MappingNode):
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key_line = key_node.start_mark.line + 1
            if key_node.tag == "tag:yaml.org,2002:merge" or not isinstance(key_node, yaml.ScalarNode):
                raise SpecError([Problem("a key must be plain text", key_text(path), document.file, key_line)])
            key = key_node.value
            if key in result:
                first = document.lines[(*path, key)]
                raise SpecError(
                    [
                        Problem(
                            f"given twice (first on line {first})", key_text((*path, key)), document.file, key_line, "keep one"
                        )
                    ]
                )
            document.lines[(*path, key)] = key_line
            result[key] = _build(value_node, (*path, key), document, open_nodes)
        return result
    if isinstance(node, yaml.SequenceNode):
        return [_build(item, (*path, index), document, open_nodes) for index, item in enumerate(node.value)]
    constructor = yaml.constructor.SafeConstructor()
    if node.tag.endswith(":int"):
        return int(node.value.replace("_", ""))
    try:
        return constructor.construct_object(node)
    except (ValueError, yaml.YAMLError):
        raise SpecError([Problem(f"{node.value!r} can't be read", key_text(path), document.file, line)]) from None


def read_yaml(path: Path, what: str) -> Document:
    """Read and parse a file; `what` names it in the error ('sweep file', 'search space')."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = sorted(p.name for p in path.parent.glob("*.y*ml")) if path.parent.is_dir() else []
        hint = f"{path.parent}/ holds: {', '.join(near)}" if near else f"there is no YAML file in {path.parent}/"
        raise SpecError([Problem(f"{what} not found", file=str(path), hint=hint)]) from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError([Problem(f"{what} can't be read: {error}", file=str(path))]) from None
    return parse_yaml(text, str(path))
