"""A YAML reader that keeps line numbers and never runs code.

It reads plain mappings, lists and scalars. Only `true` and `false` are booleans (YAML 1.1 reads a label `no` as false), and
`1e-5` is a number (YAML 1.1 reads it as text). `007` is a word (YAML 1.1 reads an octal number). A duplicate key is an error.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from scalesweep.errors import Problem, SpecError, nearest

KeyPath = tuple[str | int, ...]
OVERRIDE = 86  # characters of a `--set KEY=VALUE` that an error shows


def key_text(path: KeyPath) -> str:
    """('a', 'b', 0) → 'a.b[0]'."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else (f".{part}" if text else part)
    return text


@dataclass
class Document:
    """A parsed file: plain data, the line of every key path, and the overrides as they were written: `--set KEY=VALUE`."""

    file: str
    data: Any
    lines: dict[KeyPath, int] = field(default_factory=dict)
    overrides: dict[KeyPath, str] = field(default_factory=dict)

    def line(self, path: KeyPath) -> int | None:
        """Return the line of the longest known prefix of `path`."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path)

    def problem(self, path: KeyPath, message: str, hint: str = "") -> Problem:
        for depth in range(len(path), 0, -1):
            if (override := self.overrides.get(path[:depth])) is not None:
                shown = override if len(override) <= OVERRIDE else f"{override[: OVERRIDE - 1]}…"
                return Problem(message=message, key=key_text(path), file=shown, hint=hint)
        return Problem(message=message, key=key_text(path), file=self.file, line=self.line(path), hint=hint)


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {
        first: [(tag, regexp) for tag, regexp in resolvers if not tag.endswith((":bool", ":float", ":timestamp", ":int"))]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?(?:0|[1-9][0-9_]*)$"), list("-+0123456789"))
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
        SpecError: for invalid YAML, a tag, an alias loop, a duplicate key, or a key that is not text.
    """
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark, begun = getattr(error, "problem_mark", None), getattr(error, "context_mark", None)
        what = getattr(error, "problem", None) or str(error).splitlines()[0]
        line = mark.line + 1 if mark else None
        if begun and begun.line + 1 != line:
            what += f" (in the block that begins on line {begun.line + 1})"
        hint = "check the indentation, brackets and quotes around this line; a value that contains ': ' needs quotes"
        raise SpecError([Problem(f"not valid YAML: {what}", file=file, line=line, hint=hint)]) from None
    except RecursionError:
        raise SpecError([Problem("brackets are nested too deep", file=file, line=1, hint="check the brackets")]) from None
    document = Document(file=file, data=None)
    document.data = _build(node, (), document, open_nodes=frozenset()) if node is not None else None
    return document


def _build(node: yaml.Node, path: KeyPath, document: Document, open_nodes: frozenset[int]) -> Any:
    line = node.start_mark.line + 1
    document.lines.setdefault(path, line)
    if node.tag not in _PLAIN_TAGS:
        tag = node.tag.replace("tag:yaml.org,2002:", "!!")
        hint = "write a plain value: scalesweep never runs a tag"
        raise SpecError([Problem(f"the YAML tag {tag} is not allowed", key_text(path), document.file, line, hint)])
    if id(node) in open_nodes:
        raise SpecError([Problem("an alias refers to itself", key_text(path), document.file, line, "write the value in full")])
    open_nodes |= {id(node)}
    if isinstance(node, yaml.MappingNode):
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key_line = key_node.start_mark.line + 1
            if key_node.tag == "tag:yaml.org,2002:merge" or not isinstance(key_node, yaml.ScalarNode):
                what = "the merge key '<<' is not supported" if key_node.tag.endswith(":merge") else "a key must be plain text"
                raise SpecError(
                    [Problem(what, key_text(path), document.file, key_line, "write each key by name, as KEY: VALUE")]
                )
            key = key_node.value
            if key in result:
                first = document.lines[(*path, key)]
                raise SpecError(
                    [
                        Problem(
                            f"appears twice (first on line {first})",
                            key_text((*path, key)),
                            document.file,
                            key_line,
                            "keep one of them",
                        )
                    ]
                )
            document.lines[(*path, key)] = key_line
            result[key] = _build(value_node, (*path, key), document, open_nodes)
        return result
    if isinstance(node, yaml.SequenceNode):
        return [_build(item, (*path, index), document, open_nodes) for index, item in enumerate(node.value)]
    try:
        if node.tag.endswith(":int"):
            return int(node.value.replace("_", ""))
        return yaml.constructor.SafeConstructor().construct_object(node)
    except (ValueError, KeyError, yaml.YAMLError):
        kind = node.tag.rpartition(":")[2]
        what = f"{node.value[:40]!r} can't be read as {kind}"
        raise SpecError([Problem(what, key_text(path), document.file, line, "write a plain value")]) from None


def read_yaml(path: Path, what: str, shown: str = "") -> Document:
    """Read and parse a file. An error calls it `what` ('sweep file', 'search space') and gives its path as `shown`.

    Raises SpecError.
    """
    shown = shown or str(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SpecError([Problem(f"{what} not found", file=shown, hint=neighbours(path))]) from None
    except IsADirectoryError:
        raise SpecError([Problem("is a folder", file=shown, hint=f"give the path of the {what} in it")]) from None
    except UnicodeDecodeError:
        raise SpecError([Problem("is not UTF-8 text", file=shown, hint=f"a {what} is a YAML file")]) from None
    except OSError as error:
        raise SpecError(
            [Problem(f"{what} can't be read: {error.strerror}", file=shown, hint="check its permissions")]
        ) from None
    return parse_yaml(text, shown)


def neighbours(path: Path) -> str:
    """Return a hint for a missing file: the most similar name, or the YAML files in its folder."""
    if not path.parent.is_dir():
        return f"there is no folder {path.parent}"
    names = sorted(p.name for p in path.parent.glob("*.y*ml"))
    if near := nearest(path.name, names):
        return f"did you mean {path.parent / near}?"
    more = f" … and {len(names) - 8} more" if len(names) > 8 else ""
    return f"{path.parent}/ contains: {', '.join(names[:8])}{more}" if names else f"there is no YAML file in {path.parent}/"
