"""Download files of a data set from the Hugging Face hub, at exactly one commit."""

import errno
import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from httpx import HTTPError
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from recipe.base.errors import UserError
from scripts.data.reading import KINDS

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class Download(NamedTuple):
    """Hold the downloaded commit and its files, sorted by name."""

    commit: str
    files: list[Path]


def download(repo: str, revision: str, pattern: str) -> Download:
    """Download the data files that match the pattern.

    The revision (a branch, a tag or a commit) is first resolved to a commit, and that commit is
    fetched, so what is recorded is what was read.

    Raises:
        UserError: no such data set, revision or file, or the hub cannot be reached.
    """
    try:
        info = HfApi().dataset_info(repo, revision=revision)
        found = sorted(file.rfilename for file in info.siblings or ())
        names = [n for n in found if n.endswith(KINDS) and fnmatchcase(n, pattern)]
        if info.sha is None or not names:
            raise UserError(
                f"the hub's data set {repo} at {revision} holds no data file that fits "
                f"{pattern!r}; there are: {', '.join(found[:20]) or 'none'}. Choose with --files "
                f"PATTERN among those that end in {', '.join(KINDS)}."
            )
        folder = snapshot_download(
            repo, repo_type="dataset", revision=info.sha, allow_patterns=names
        )
    except RevisionNotFoundError:
        raise UserError(
            f"the hub's data set {repo} has no revision {revision!r}. Give a branch, a tag or a "
            f"commit of it with --revision; without it, it is main."
        ) from None
    except (RepositoryNotFoundError, HFValidationError):
        raise UserError(
            f"--source {repo} is neither a file or folder here nor a data set that the hub shows. "
            f"Check the spelling; for one that asks for consent, accept it on its page and log in "
            f"with `hf auth login`."
        ) from None
    except (HfHubHTTPError, HTTPError, OSError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise UserError(
                f"the disk is full, and {repo} is not complete in the hub's cache. Free some "
                f"space, or set HF_HOME to a folder on another disk."
            ) from None
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise UserError(
            f"{repo} is no file or folder here, and the hub cannot be reached for it: "
            f"{reason:.300}. Check the network and HF_HUB_OFFLINE, or fetch its files elsewhere "
            f"and give their folder: --source PATH."
        ) from None
    return Download(info.sha, [Path(folder) / name for name in names])
