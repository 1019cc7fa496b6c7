"""A finished export onto the hub: whether that can be, asked before any work is done, and the upload."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from data.errors import ModelError

NAME = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}")


def check(repo: str) -> None:
    """A name, a token that the hub knows, and no repository of that name."""
    if not NAME.fullmatch(repo):
        raise ModelError(f"`{repo}` is no name on the hub", where="--to", way_out="Write hub:OWNER/NAME.")
    from huggingface_hub import HfApi, get_token

    if get_token() is None:
        raise ModelError(
            "there is no token to upload with",
            where=f"hub:{repo}",
            way_out="hf auth login, or set HF_TOKEN. `--to DIR` needs none.",
        )
    api = HfApi()
    _asked(api.whoami, repo)  # pyright: ignore[reportUnknownMemberType] - hub library
    if _asked(lambda: api.repo_exists(repo), repo):
        # An empty one too: it keeps the visibility it has, whatever is asked for here.
        raise ModelError(
            "there is a repository of this name already, and an export never writes over any",
            where=f"hub:{repo}",
            way_out="Give another name, or delete that one.",
        )


def upload(folder: Path, repo: str, *, private: bool) -> str:
    """In one commit, so that nobody sees half of it. Returns the address."""
    from huggingface_hub import HfApi

    api = HfApi()
    _asked(lambda: api.create_repo(repo, private=private, exist_ok=False), repo)
    _asked(
        lambda: api.upload_folder(folder_path=folder, repo_id=repo, commit_message="Export by heliograph"),
        repo,
    )
    return f"{api.endpoint}/{repo}"


def _asked(call: Any, repo: str) -> Any:
    """What the hub answers; that it cannot be reached, or refuses, is the user's to mend."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        return call()
    except OfflineModeIsEnabled as fault:
        raise ModelError(
            "HF_HUB_OFFLINE is set", where=f"hub:{repo}", way_out="Unset it, or export to a folder."
        ) from fault
    except HfHubHTTPError as fault:
        raise ModelError(
            f"the hub refuses: {str(fault).strip().splitlines()[-1]}",
            where=f"hub:{repo}",
            way_out="hf auth whoami tells who you are there; the token needs the right to write.",
        ) from fault
    except (httpx2.HTTPError, OSError) as fault:
        raise ModelError(
            f"the hub cannot be reached: {str(fault) or type(fault).__name__}",
            where=f"hub:{repo}",
            way_out="Export to a folder, and upload that from a machine with the network: hf upload.",
        ) from fault
