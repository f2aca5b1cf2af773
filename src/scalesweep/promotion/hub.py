"""Pushes an exported model to the Hugging Face hub. Token and endpoint are those of the hub's own client: its login or environment."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalesweep.errors import OutsideError, UserError, first_line
from scalesweep.record.exports import PROVENANCE
from scalesweep.storage import without_secrets

LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"


@dataclass(frozen=True)
class Destination:
    """A repository that was checked: the user may write to it, and its visibility is the one that was asked for."""

    repo: str
    public: bool

    @property
    def visibility(self) -> str:
        return "public" if self.public else "private"


def check(repo: str, public: bool = False) -> Destination:
    """Check what can be checked before any compute: the name, the login, its right to write, and an existing repository.

    Args:
        repo: NAMESPACE/NAME, or a NAME in the user's own namespace.
        public: whether everybody may see the repository.

    Raises:
        UserError: the name is invalid, nobody is logged in, the login may not write there, or the repository exists with the
            other visibility.
        OutsideError: the hub can't be reached.
    """
    from huggingface_hub import HfApi, constants, get_token
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError:
        hint = "write NAMESPACE/NAME, such as ada/film-reviews: letters, digits, -, _ and ., without -- and ..; at most 96 characters"
        raise UserError(f"--push-to-hub {repo}: this is no name of a repository", hint) from None
    if constants.HF_HUB_OFFLINE:
        raise UserError("nothing can be pushed, because HF_HUB_OFFLINE is set", "unset it, or push later")
    if get_token() is None:
        raise UserError("nothing can be pushed, because nobody is logged in to the hub", LOG_IN)
    api = HfApi()
    with _errors(f"{api.endpoint} can't be asked who is logged in"):
        who = api.whoami()
    if (who.get("auth") or {}).get("accessToken", {}).get("role") == "read":
        raise UserError(f"the token of {who['name']} may read the hub and not write to it", "make one with the role write")
    namespaces = [who["name"], *(one["name"] for one in who.get("orgs") or ())]
    namespace, _, name = repo.rpartition("/")
    if namespace and namespace not in namespaces:
        raise UserError(
            f"--push-to-hub {repo}: {who['name']} can't write to {namespace}",
            f"namespaces of this login: {', '.join(namespaces)}",
        )
    repo = f"{namespace or who['name']}/{name}"
    with _errors(f"{api.endpoint} can't be asked about {repo}"):
        try:
            is_public = not api.model_info(repo).private
        except RepositoryNotFoundError:
            is_public = public
    if is_public != public:
        state, hint = ("public", "add --public") if is_public else ("private", "leave out --public, or change it on the hub")
        raise UserError(f"{repo} exists and is {state}; pushing does not change that", f"{hint}; or choose another name")
    return Destination(repo, public)


def push(folder: Path, to: Destination, again: str) -> str:
    """Upload an exported model, as one commit. The repository is created if it does not exist.

    Args:
        again: what the user does to push it later.

    Returns:
        The address of the model.

    Raises:
        OutsideError: the hub refuses or can't be reached. The folder is left as it is.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    api = HfApi()
    hint = f"the model is whole in {folder}. To push it later: {again}"
    with _errors(f"the model was not pushed to {to.repo}", hint), _publishable(folder) as copy:
        api.create_repo(to.repo, private=not to.public, exist_ok=True)
        api.upload_folder(repo_id=to.repo, folder_path=copy, commit_message="Upload a model promoted by scalesweep")
    return f"{api.endpoint}/{to.repo}"


def push_to_hub(export: Path | str, repo: str, public: bool = False) -> str:
    """Push a promoted model to the Hugging Face hub, as `promote --push-to-hub` does, and return its address.

    The token is that of the hub's own client: HF_TOKEN, or the login of `hf auth login`.

    Args:
        export: folder that `promote` wrote.
        repo: NAMESPACE/NAME, or a NAME in the user's own namespace; made if it does not exist.
        public: whether everybody may see the repository.

    Raises:
        UserError: `export` holds no promoted model, the name is invalid, nobody is logged in, the login may not write there, or
            the repository exists with the other visibility.
        OutsideError: the hub refuses or can't be reached.
    """
    folder = Path(export)
    if not (folder / PROVENANCE).is_file():
        raise UserError(f"{folder} holds no {PROVENANCE}", "give a folder that `scalesweep promote` wrote")
    return push(folder, check(repo, public), f"push_to_hub({str(folder)!r}, {repo!r}{', public=True' * public})")


@contextmanager
def _publishable(folder: Path) -> Iterator[Path]:
    """A folder of links to the files of an export, with a provenance in which absolute paths are cut to their last part.

    Folders of this machine, and so its users' names, mean nothing elsewhere.
    """
    with tempfile.TemporaryDirectory(prefix="scalesweep-") as made:
        for file in folder.rglob("*"):
            if file.is_file() and file.name != PROVENANCE:
                link = Path(made) / file.relative_to(folder)
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(file.resolve())
        provenance = json.loads((folder / PROVENANCE).read_text(encoding="utf-8"))
        text = json.dumps(without_folders(provenance), indent=2, ensure_ascii=False) + "\n"
        (Path(made) / PROVENANCE).write_text(text, encoding="utf-8")
        yield Path(made)


def without_folders(value: Any) -> Any:
    """JSON in which the last part stands for each absolute path, in keys too."""
    if isinstance(value, dict):
        return {without_folders(key): without_folders(one) for key, one in value.items()}
    if isinstance(value, list):
        return [without_folders(one) for one in value]
    return value.rpartition("/")[2] if isinstance(value, str) and value.startswith(os.sep) else value


@contextmanager
def _errors(message: str, hint: str = "") -> Iterator[None]:
    """Raise what the hub's client raises as an error of ours."""
    from huggingface_hub.errors import HfHubHTTPError, HTTPError  # the latter is of the HTTP library that this version uses

    try:
        yield
    except HfHubHTTPError as error:
        if error.response is not None and error.response.status_code == 401 and not hint:
            raise UserError("the hub does not accept this token", LOG_IN) from None
        raise OutsideError(f"{message}: {without_secrets(first_line(error))}", hint) from None
    except (HTTPError, OSError, ValueError, RuntimeError) as error:
        raise OutsideError(
            f"{message}: {without_secrets(first_line(error))}", hint or "check the network and try again"
        ) from None
