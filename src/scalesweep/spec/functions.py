"""Functions of the user's own, written as `module:function`."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from scalesweep.errors import UserError, did_you_mean, first_line


def named(value: str) -> str:
    """The value itself, if it has the form `module:function`. Raises ValueError otherwise."""
    if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*", value) and not re.fullmatch(r"/.+\.py:[^\W\d]\w*", value):
        raise ValueError(f"{value!r} does not name a function; write module:function, such as scorers:first_word")
    return value


def placed(written: str, folders: Sequence[Path]) -> str:
    """The function for other working folders: by the absolute path of its file if that lies in one of `folders`.

    Without such a file the module is an installed one, and the name stays as it is.
    """
    module, _, name = written.rpartition(":")
    for folder in folders:
        if not module.startswith("/") and (file := folder / f"{module.replace('.', '/')}.py").is_file():
            return f"{file.resolve()}:{name}"
    return written


@cache
def load(function: str) -> Callable[..., Any]:
    """The function that `placed` returned. Its module is imported, which runs it; a file is imported once per process.

    Raises:
        UserError: the module is missing or fails, or it has no such function.
    """
    module, _, name = function.rpartition(":")
    found = _from_file(Path(module)) if module.endswith(".py") else _installed(module)
    value = getattr(found, name, None)
    if value is None:
        callables = [key for key, held in vars(found).items() if callable(held) and not key.startswith("_")]
        raise UserError(f"{module} has no function {name!r}", did_you_mean(name, callables))
    if not callable(value):
        raise UserError(f"{name} of {module} is no function, but {type(value).__name__}", "name a function")
    if not accepts(value, 2) and not accepts(value, 3):
        message = f"{name} of {module} can't be called with two arguments"
        raise UserError(message, "give it two: the answer and the reference, or all predictions and all labels")
    result: Callable[..., Any] = value
    return result


def accepts(function: Callable[..., Any], count: int) -> bool:
    """Whether a function takes `count` arguments by position. One of C that shows no signature counts as taking two."""
    try:
        inspect.signature(function).bind(*range(count))
    except ValueError:
        return count == 2
    except TypeError:
        return False
    return True


def file_hashes(functions: Iterable[str | None]) -> dict[str, str | None]:
    """The SHA-256 of the file that holds each of the functions that `placed` returned; None for a module without a file.

    Raises:
        UserError: under the conditions of `load`.
    """
    found: dict[str, str | None] = {}
    for function in functions:
        if function is not None:
            load(function)
            module = function.rpartition(":")[0]
            file = module if module.endswith(".py") else getattr(sys.modules[module], "__file__", None)
            found[function] = None if file is None else hashlib.sha256(Path(file).read_bytes()).hexdigest()
    return found


def changed_functions(recorded: Mapping[str, str | None]) -> str | None:
    """A remark on functions whose file differs from the recorded hash; None if there is none.

    Raises:
        UserError: under the conditions of `load`.
    """
    changed = [name for name, now in file_hashes(recorded).items() if now != recorded[name]]
    return (
        f"the file of {', '.join(changed)} has changed since the launch, so later values may mean something else"
        if changed
        else None
    )


def _from_file(file: Path) -> Any:
    if not file.is_file():
        raise UserError(f"{file} does not exist on this machine", "put the file at this path on every node")
    name = f"scalesweep_user_{file.stem}_{abs(hash(str(file)))}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules[name] = made  # dataclasses and pickle look a module up by its name
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))  # for what the file imports from beside it, now or when it is called
    try:
        spec.loader.exec_module(made)
    except BaseException as error:
        del sys.modules[name]
        raise _failed(str(file), error) from error
    return made


def _installed(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise _failed(module, error) from error  # it lacks another module
        hint = f"put {module.replace('.', '/')}.py beside the sweep file, or install the package"
        raise UserError(f"there is no module {module!r}", hint) from None
    except BaseException as error:
        raise _failed(module, error) from error


def _failed(module: str, error: BaseException) -> BaseException:
    """The error to raise for one that importing a module raised."""
    if isinstance(error, KeyboardInterrupt):
        return error
    return UserError(f"{module} can't be imported: {first_line(error)} ({type(error).__name__})", "correct the module")


def called(function: str, *arguments: Any) -> float:
    """The number that a user's function returns.

    Raises:
        UserError: it raises an exception, or returns something else than a finite number.
    """
    try:
        value = load(function)(*arguments)
    except UserError:
        raise
    except Exception as error:
        where = error.__traceback__
        while where is not None and where.tb_next is not None:
            where = where.tb_next
        at = f" in line {where.tb_lineno} of {where.tb_frame.f_code.co_filename}" if where is not None else ""
        raise UserError(f"{function} raised {type(error).__name__}{at}: {first_line(error)}", "correct the function") from error
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not abs(number) < float("inf"):
        raise UserError(f"{function} returned {value!r}, which is not a finite number", "return one number for any input")
    return number
