#!/usr/bin/env python3
"""Generate the tables of docs/reference/ from the code: `python scripts/reference.py`, or `--check` to compare only.

A page holds text written by hand and blocks between `<!-- from the code: NAME -->` and `<!-- end -->`. `BLOCKS` names what
fills each block. Exit code 1 with `--check` where a page differs.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from scalesweep.cli import cli
from scalesweep.errors import EXIT_CODES
from scalesweep.record.fields import EVENTS, MANIFEST, REPORT
from scalesweep.spec import resources, space, sweep
from scalesweep.spec.metrics import METRICS
from scalesweep.spec.tasks import TASKS
from scalesweep.training.schedules import SCHEDULES

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "scalesweep"
BLOCK = re.compile(r"(<!-- from the code: (?P<name>\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
BIG = 10**9  # a bound that only keeps numbers sane

# ---- words ------------------------------------------------------------------------------------------------------------------


def sentence(text: str) -> str:
    """A description as it stands in a table: capital, full stop, links to papers."""
    text = " ".join(text.split()).replace("|", "\\|")
    if re.match(r"[a-z][a-z ,–-]", text):
        text = text[0].upper() + text[1:]
    text = re.sub(r"arXiv (\d{4}\.\d{5})", r"[arXiv \1](https://arxiv.org/abs/\1)", text)
    return text if text.endswith((".", ":")) else f"{text}."


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def values(words: Mapping[str, str], head: str) -> str:
    return table((f"`{head}`", "meaning"), [(f"`{word}`", sentence(help)) for word, help in words.items()])


def shown(value: Any) -> str:
    """A default or a bound as YAML has it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.10g}" if value >= 0.001 or value == 0 else f"{value:.1e}".replace("e-0", "e-")
    return str(value)


# ---- the two files ----------------------------------------------------------------------------------------------------------

NOUNS = {str: "text", int: "whole number", float: "number", bool: "boolean", type(None): ""}
SPECIAL = {  # where the annotation would say less than a word of ours
    "SweepSpec.search_space": "path, or mapping with `parameters`",
    "SweepSpec.ladder": "mapping or list",
    "BudgetSpec.time": "duration > 0",
    "DataSpec.earlier": "mapping",
    "DataSpec.splits": "mapping",
    "SearchSpec.points_to_evaluate": "list of mappings",
    "ResourcesSpec.dollars_per_gpu_hour": "number > 0, or mapping",
    "Parameter.when": "mapping",
    "Parameter.value": "number, word or boolean",
    "Parameter.prior": "number or word",
    "Parameter.values": "list",
    "Parameter.min": "number",
    "Parameter.max": "number",
    "SearchSpace.parameters": "mapping",
}


def noun(annotation: Any) -> str:
    """An annotation in words."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        inner, *limits = typing.get_args(annotation)
        return noun(inner) + "".join(bounds(item.metadata) for item in limits if isinstance(item, FieldInfo))
    if origin is typing.Literal:
        return " \\| ".join(f"`{word}`" for word in typing.get_args(annotation))
    if origin in (typing.Union, types.UnionType):
        nouns = [noun(part) for part in typing.get_args(annotation)]
        if "number" in nouns:
            nouns = [word for word in nouns if word != "whole number"]
        return " or ".join(dict.fromkeys(word for word in nouns if word))
    if origin is list:
        return f"list of {noun(typing.get_args(annotation)[0]).replace('whole number', 'whole numbers')}"
    if origin is dict or (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        return "mapping"
    return NOUNS[annotation]


def bounds(metadata: list[Any]) -> str:
    found = []
    for item in metadata:
        for key, sign in (("gt", ">"), ("ge", "≥"), ("lt", "<"), ("le", "≤")):
            if (bound := getattr(item, key, None)) is not None:
                found.append(f" {sign} {shown(bound)}")
    return ",".join(found)


def default(field: FieldInfo) -> str:
    if field.is_required():
        return "*required*"
    if field.default is PydanticUndefined or field.default is None:
        return "–"
    return f"`{shown(field.default)}`"


def keys(model: type[BaseModel]) -> str:
    """A table of a mapping's keys: those without which nothing works first."""
    rows = []
    fields = sorted(model.model_fields.items(), key=lambda item: (not item[1].is_required(), item[0] != "name"))
    for name, field in fields if model in (sweep.LadderSize, sweep.DepthLadder) else model.model_fields.items():
        assert field.description, f"{model.__name__}.{name} has no description"
        kind = SPECIAL.get(f"{model.__name__}.{name}") or noun(field.annotation) + bounds(field.metadata)
        key = f"`{name}`"
        if model is sweep.SweepSpec and name not in ("name", "task"):
            key = f"[{key}](#{name})" if name != "search_space" else f"[{key}](search-space.md)"
        rows.append((key, kind, default(field), sentence(field.description)))
    return table(("key", "type", "default", "meaning"), rows)


def parameters() -> str:
    rows = []
    for name, info in space.PARAMETERS.items():
        kind = {"int": "whole", "float": "number", "word": "word", "bool": "true \\| false"}[info.kind]
        if info.choices:
            kind = " \\| ".join(f"`{word}`" for word in info.choices)
        elif info.high is not None:
            low = f"above {shown(info.low)}, at most" if info.above_low else f"{shown(info.low)} …"
            kind += f", {low} {'10⁹' if info.high == BIG else shown(info.high)}"
            kind += "".join(f", {shown(fraction)}" for fraction in info.fractions)
        elif info.kind == "word":
            kind += {
                "model_size": " (a size)",
                "lr_scheduler_type": " (a [schedule](#schedules))",
                "lora_target_modules": " (names)",
            }[name]
        fallback = f"`{shown(info.default)}`" if info.default is not None else "–"
        if info.default is None and name.endswith(("dropout", "layerdrop")):
            fallback = "as in the checkpoint"
        rows.append((f"`{name}`", kind, fallback, sentence(info.help)))
    return table(("parameter", "values", "default", "meaning"), rows)


def metrics() -> str:
    rows = []
    for name, metric in METRICS.items():
        tasks = ", ".join(f"`{task}`" for task, row in TASKS.items() if name in (*row.metrics, *row.generated))
        rows.append((f"`{name}`", tasks, metric.goal, sentence(metric.help)))
    return table(("metric", "task", "goal", "meaning"), rows)


# ---- commands ---------------------------------------------------------------------------------------------------------------


METAVARS = {click.IntRange: "N", click.FloatRange: "X"}


def command(name: str) -> str:
    """One command: usage, what it does, its arguments and options."""
    found = cli.commands[name]
    context = click.Context(found, info_name=f"scalesweep {name}", terminal_width=1000)
    usage = found.get_usage(context).removeprefix("Usage: ")
    parts = [f"```\n{usage}\n```", help_text(found.help or "")]
    rows = []
    for option in found.params:
        if not isinstance(option, click.Option):
            continue
        names = " ".join(option.opts + option.secondary_opts)
        value = "" if option.is_flag else f" {METAVARS.get(type(option.type)) or option.make_metavar(context)}"
        value = f" {option.metavar}" if option.metavar else value
        fallback = f"`{shown(option.default)}`" if option.show_default and option.default is not None else "–"
        rows.append((f"`{names}{value}`".replace("|", "\\|"), fallback, sentence(option.help or "")))
    return "\n\n".join([*parts, table(("option", "default", "meaning"), rows)])


def help_text(text: str) -> str:
    """A docstring of click as Markdown: blocks after `\\b` keep their lines."""
    parts = []
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        if paragraph.startswith("\b\n"):
            parts.append(f"```\n{paragraph.removeprefix(chr(8)).strip(chr(10))}\n```")
        else:
            parts.append(" ".join(paragraph.split()))
    return "\n\n".join(parts)


def exit_codes() -> str:
    return table(("code", "meaning"), [(str(code), sentence(text)) for code, text in EXIT_CODES.items()])


# ---- the record -------------------------------------------------------------------------------------------------------------


def fields(rows: Mapping[str, Any]) -> str:
    return table(
        ("field", "type", "meaning"), [(f"`{name}`", field.type, sentence(field.help)) for name, field in rows.items()]
    )


def events() -> str:
    return "\n\n".join(f"### `{kind}`\n\n{event.help}\n\n{fields(event.fields)}" for kind, event in EVENTS.items())


# ---- Python -----------------------------------------------------------------------------------------------------------------

# Read as text: importing these would load torch.
PYTHON = {
    "api.py": ("Sweep", "resume", "confirm", "findings", "write_page", "publish", "fit_scaling", "plan_budget", "choose"),
    "promotion/promote.py": ("promote",),
    "promotion/reproduce.py": ("reproduce",),
    "promotion/hub.py": ("push_to_hub",),
    "record/store.py": ("read_record",),
    "record/ranking.py": ("rank", "Row"),
    "record/schema.py": ("Record", "Trial", "Report", "State"),
}


def python() -> str:
    parts = []
    for file, names in PYTHON.items():
        text = (SOURCE / file).read_text(encoding="utf-8")
        found = {node.name: node for node in ast.parse(text).body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
        for name in names:
            parts += described(found[name], text.splitlines())
    return "\n\n".join(parts)


def described(node: ast.ClassDef | ast.FunctionDef, lines: list[str], owner: str = "") -> list[str]:
    """A function's signature and docstring, or a class with its attributes (and the methods that users call)."""
    if isinstance(node, ast.FunctionDef):
        return [f"### {signature(node, owner)}", docstring(node)]
    parts = [f"## `{node.name}`", docstring(node)]
    rows, words, methods = [], [], []
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            name, kind, remark = item.target.id, item.annotation, lines[item.lineno - 1].partition("  # ")[2]
        elif isinstance(item, ast.FunctionDef) and is_property(item):
            name, kind, remark = item.name, item.returns, (ast.get_docstring(item) or "").partition("\n\n")[0]
        elif isinstance(item, ast.Assign) and isinstance(item.targets[0], ast.Name):
            words.append(f"`{item.targets[0].id}`")  # of an enumeration
            continue
        else:
            methods.append(item)
            continue
        if not name.startswith("_"):
            remark = REPORT[name].help if node.name == "Report" and name in REPORT else remark
            annotation = ast.unparse(kind) if kind else ""
            rows.append((f"`{name}`", f"`{annotation}`".replace("|", "\\|"), sentence(remark) if remark else ""))
    if words:
        parts.append(f"Members: {', '.join(words)}.")
    if rows:
        parts.append(table(("attribute", "type", "meaning"), rows))
    public = [item for item in methods if isinstance(item, ast.FunctionDef) and not item.name.startswith("_")]
    for item in public:
        if node.name == "Sweep" or item.name == "to_frame":
            parts += described(item, lines, node.name)
    return parts


def is_property(node: ast.FunctionDef) -> bool:
    return any(isinstance(mark, ast.Name) and mark.id == "property" for mark in node.decorator_list)


def signature(node: ast.FunctionDef, owner: str) -> str:
    arguments = ast.arguments(**{name: getattr(node.args, name) for name in node.args._fields})
    arguments.args = [item for item in node.args.args if item.arg not in ("self", "cls")]
    name = f"{owner}.{node.name}" if any(a.arg == "cls" for a in node.args.args) else f"{owner.lower()}.{node.name}"
    returns = f" → {ast.unparse(node.returns)}" if node.returns else ""
    return f"`{name.removeprefix('.')}({ast.unparse(arguments)}){returns}`"


def docstring(node: ast.ClassDef | ast.FunctionDef) -> str:
    """A Google-style docstring as Markdown."""
    parts: list[str] = []
    for paragraph in (ast.get_docstring(node) or "").split("\n\n"):
        head, _, body = paragraph.partition("\n")
        if head in ("Args:", "Raises:", "Returns:") and body:
            lines = re.sub(r"\n {8,}", " ", body).splitlines()
            parts.append(f"{head.removesuffix(':')}:\n\n" + "\n".join(f"- {item(line.strip())}" for line in lines))
        elif head.startswith(">>>"):
            code = re.sub(r"^>>> |\s+# doctest:.*$", "", paragraph, flags=re.MULTILINE)
            parts.append(f"```python\n{code}\n```")
        else:
            parts.append(" ".join(paragraph.split()))
    return "\n\n".join(parts)


def item(line: str) -> str:
    """A line of `Args:` or `Raises:` with its names as code."""
    names, colon, rest = line.partition(": ")
    known = colon and all(name.isidentifier() for name in names.split(", "))
    return f"`{names.replace(', ', '`, `')}`: {rest}" if known else line


# ---- pages ------------------------------------------------------------------------------------------------------------------

BLOCKS: dict[str, Callable[[], str]] = {
    **{f"keys:{model.__name__}": lambda model=model: keys(model) for model in (  # type: ignore[misc]
        sweep.SweepSpec, sweep.DataSpec, sweep.DepthLadder, sweep.LadderSize, sweep.MetricSpec, sweep.TrainingSpec,
        sweep.EarlyTerminateSpec, sweep.SearchSpec, sweep.BudgetSpec, resources.ResourcesSpec, sweep.WandbSpec, sweep.AdaptSpec, space.Parameter,
    )},
    "values:time_attr": lambda: values(sweep.TIME_ATTRS, "time_attr"),
    "values:variant": lambda: values(sweep.VARIANTS, "variant"),
    "values:survival": lambda: values(sweep.SURVIVAL_RULES, "survival"),
    "values:sampler": lambda: values(sweep.SAMPLERS, "sampler"),
    "values:placement": lambda: values(resources.PLACEMENTS, "placement"),
    "values:unfreezing": lambda: values(space.UNFREEZING_MODES, "unfreezing"),
    "values:adapter": lambda: values({name: row.help for name, row in space.ADAPTERS.items()}, "adapter"),
    "values:unfreeze_cadence": lambda: values({name: row.help for name, row in space.CADENCES.items()}, "unfreeze_cadence"),
    "values:lr_scheduler_type": lambda: values({name: row.help for name, row in SCHEDULES.items()}, "lr_scheduler_type"),
    "parameters": parameters,
    "metrics": metrics,
    **{f"command:{name}": lambda name=name: command(name) for name in cli.commands},  # type: ignore[misc]
    "exit-codes": exit_codes,
    "events": events,
    "manifest": lambda: fields(MANIFEST),
    "python": python,
}  # fmt: skip


def filled(text: str) -> str:
    """A page with its blocks made anew."""
    return BLOCK.sub(lambda found: f"{found[1]}\n{BLOCKS[found['name']]()}\n\n{found[3]}", text)


def pages() -> dict[Path, str]:
    """Every page that has blocks, as it should be."""
    texts = {path: path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").rglob("*.md"))}
    return {path: filled(text) for path, text in texts.items() if BLOCK.search(text)}


def main(arguments: list[str]) -> int:
    stale = [path for path, text in pages().items() if path.read_text(encoding="utf-8") != text]
    for path in stale:
        if arguments == ["--check"]:
            print(f"{path.relative_to(ROOT)} is out of date: run python scripts/reference.py", file=sys.stderr)
        else:
            path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")
            print(f"wrote {path.relative_to(ROOT)}")
    return 1 if stale and arguments == ["--check"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
