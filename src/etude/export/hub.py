"""The Hugging Face hub: a repository gets the files of an export, and no others."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from etude.errors import UserError

LACKING = "push= needs huggingface-hub, which is not installed: pip install 'etude[hub]'"


def ready() -> None:
    """Ask for what a push needs, before anything is made.

    Raises:
        UserError: The package or a token is not there.
    """
    if not find_spec("huggingface_hub"):
        raise UserError(LACKING)
    from huggingface_hub import get_token

    if not get_token():
        raise UserError("push=: there is no token of the Hugging Face hub; set HF_TOKEN, or run: hf auth login")


def push(name: str, files: Sequence[Path], private: bool = False) -> str:
    """Put files into a repository of models, which is made where there is none.

    Args:
        name: `user/name`.
        files: All in one folder.
        private: Whether a new repository is not public.

    Returns:
        Its address.

    Raises:
        UserError: The hub refuses it, or cannot be reached.
    """
    from huggingface_hub import HfApi

    hub = HfApi(library_name="etude")
    try:
        url = hub.create_repo(name, private=private, exist_ok=True)
        hub.upload_folder(
            repo_id=name, folder_path=files[0].parent, allow_patterns=[file.name for file in files],
            commit_message="Exported by Étude",
        )  # fmt: skip
    except Exception as error:  # the hub's errors, and those of whatever carries them
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(f"push={name}: the hub did not take it ({reason}); what was exported is here") from error
    return str(url)
