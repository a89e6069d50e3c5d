"""`rlaif export --push-to-hub`: a model or preferences with their card, into a repository or into a folder."""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from rlaif.console import console, heartbeat, say
from rlaif.errors import ConfigError, ModelError, did_you_mean, few, one_line
from rlaif.files import remove
from rlaif.gates.decide import decided
from rlaif.jsonl import write_atomic
from rlaif.run_folder import Run
from rlaif.share.contents import CARD, Contents, What, model_contents, preference_contents, private_text, secrets_of
from rlaif.share.dataset_card import dataset_card
from rlaif.share.facts import About, about
from rlaif.share.model_card import model_card
from rlaif.stages.stage import publishing
from rlaif.words import counted

WHATS: tuple[What, ...] = get_args(What)
TIMEOUT_S = 10
"""For the hub's first answer."""


def share(run: Path, what: str, repo: str | None, out: Path | None = None, public: bool = False) -> str:
    """Write what would be pushed into the folder `out`, or push it to the hub's repository `repo`, and say where it is.

    Of the hub, its address and the token are those of `huggingface_hub` (HF_ENDPOINT, HF_TOKEN). ConfigError for what
    the user must mend before anything is sent, ModelError where the hub does not take it.
    """
    if what not in WHATS:
        raise ConfigError(f"--what {what}: {'no such thing' if what else 'say what'}{did_you_mean(what, WHATS)}")
    if repo is not None:
        _check_name(repo)
    facts = about(run, what)
    source: Path = getattr(Run(run), what)
    if not source.exists():
        there = [one for one in WHATS if getattr(Run(run), one).exists()]
        raise ConfigError(f"--what {what}: {source} is not there yet; the run has {', '.join(there) or 'none of them'}")
    if out is not None:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise ConfigError(f"--out {out}: is there and not empty; name a new folder")
        return _write(facts, what, repo or out.name, out)
    if (found := decided(Run(run))) and not found.kept:
        raise ConfigError(f"{run}: a round that its gates refused ({found.reason}); push {run.parent / 'kept'}")
    if repo is None:
        raise ConfigError("name a folder with --out, or a repository with --push-to-hub OWNER/NAME")
    token = _token(repo)
    with tempfile.TemporaryDirectory(prefix="rlaif-") as folder:
        contents = _filled(facts, what, Path(folder), repo, copy=False)
        if private := private_text(contents.folder, secrets_of(run, token, facts.hosts)):
            raise ConfigError(
                f"{private}, so nothing was sent; write the folder with --out, mend it, and upload it with `hf upload`"
            )
        return _push(contents, what, repo, token, public)


def _write(facts: About, what: str, repo: str, out: Path) -> str:
    """The folder, whole or not at all."""
    run = facts.run.folder
    try:
        with publishing(out) as folder:
            contents = _filled(facts, what, folder, repo, copy=True)
            _say_contents(contents, f"{what} of {run}, written to {out}")
            if found := private_text(folder, secrets_of(run, None, facts.hosts)):
                say(f"{found}: look at it before you pass this on")
    finally:
        remove(out.with_name(f".{out.name}.tmp"))
    return f"{out}: nothing was sent; `rlaif export {run} --what {what} --push-to-hub OWNER/NAME` sends it"


def _filled(facts: About, what: str, folder: Path, repo: str, copy: bool) -> Contents:
    """The folder with its files and card."""
    folder.mkdir(parents=True, exist_ok=True)
    source: Path = getattr(Run(facts.run.folder), what)
    if what == "preferences":
        contents = preference_contents(source, folder)
        card = dataset_card(facts, contents, repo)
    else:
        contents = model_contents(source, folder, copy)
        card = model_card(facts, what, contents, repo)
    if not contents.sizes:
        raise ConfigError(f"--what {what}: {source} holds nothing to push")
    write_atomic(folder / CARD, card.encode())
    return contents


def _say_contents(contents: Contents, what: str) -> None:
    sizes = contents.sizes
    say(f"{what}: {counted(len(sizes), 'file')}, {sum(sizes.values()) / 1e6:,.1f} MB")
    say(few([f"  {name}  {size / 1e3:,.0f} kB" for name, size in sizes.items()]))
    if contents.left_out:
        say(f"left out, as no library reads it: {', '.join(contents.left_out)}")


# ---------------------------------------------------------------------------------------------------- the hub


def _check_name(repo: str) -> None:
    """As far as it can be told here; the hub's client knows more rules."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo, re.ASCII):
        raise ConfigError(f"--push-to-hub {repo}: not of the form OWNER/NAME, of letters, digits, '-', '_' and '.'")


def _token(repo: str) -> str:
    from huggingface_hub import get_token  # noqa: PLC0415 (slow, as every import of it here)

    if not (token := get_token()):
        raise ConfigError(
            f"--push-to-hub {repo}: no token of the hub here; set HF_TOKEN, or log in with `hf auth login`, with a "
            f"token that may write to {repo.partition('/')[0]}"
        )
    return token


def _push(contents: Contents, what: str, repo: str, token: str, public: bool) -> str:
    """Make the repository if need be, be sure who will see it, then send everything in one commit."""
    from huggingface_hub import HfApi  # noqa: PLC0415

    api, kind = HfApi(token=token), "dataset" if what == "preferences" else "model"
    seen = "public" if public else "private"
    with _refusals(repo, api.endpoint):
        found = _visibility(api, repo, kind)
        if found is None:
            api.create_repo(repo, repo_type=kind, private=not public)
            found = _visibility(api, repo, kind)
    if found != seen:
        say_so = "leave --public out" if public else "add --public if everybody may see this"
        raise ConfigError(f"--push-to-hub {repo}: is there and {found}; {say_so}, or take another name")
    _say_contents(contents, f"{what} to the {kind} {repo}, {seen}, at {api.endpoint}")
    with _refusals(repo, api.endpoint, "; the repository is there, and the same command goes on"), _progress(repo):
        done = api.upload_folder(
            repo_id=repo, repo_type=kind, folder_path=contents.folder, commit_message=f"{what} by rlaif"
        )
    return f"pushed: {done.commit_url}"


def _visibility(api: Any, repo: str, kind: str) -> str | None:
    """private or public; None where the hub shows no such repository."""
    from huggingface_hub.errors import HfHubHTTPError  # noqa: PLC0415

    try:
        return "private" if api.repo_info(repo, repo_type=kind, timeout=TIMEOUT_S).private else "public"
    except HfHubHTTPError as error:
        if error.response.status_code not in (401, 403, 404):
            raise
        return None


@contextlib.contextmanager
def _progress(repo: str) -> Iterator[None]:
    """The client's own bars on a terminal; elsewhere a line now and then."""
    from huggingface_hub.utils.tqdm import (  # noqa: PLC0415
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    if console.is_terminal or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        with heartbeat(f"uploading to {repo}"):
            yield
    finally:
        enable_progress_bars()


@contextlib.contextmanager
def _refusals(repo: str, endpoint: str, after: str = "") -> Iterator[None]:
    """Inside, what the hub or the way to it refuses is one line, and its client keeps quiet."""
    from huggingface_hub.errors import HfHubHTTPError  # noqa: PLC0415
    from huggingface_hub.utils import logging  # noqa: PLC0415

    level = logging.get_verbosity()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        yield
    except Exception as error:  # its client raises errors of its own, of two HTTP libraries and of a Rust one
        chain = [error, error.__cause__, error.__context__]
        refused = next((one for one in chain if isinstance(one, HfHubHTTPError)), None)
        if refused is None:
            raise ModelError(
                f"{endpoint}: {repo} could not be pushed: {one_line(error.__cause__ or error)}{after}"
            ) from None
        code = refused.response.status_code
        why = {
            401: "does not know your token; check HF_TOKEN",
            403: f"says that your token may not write to {repo.partition('/')[0]}; make one that may",
            409: "says that the repository is there already or being made; try again or take another name",
        }.get(code, f"refused: {one_line(refused)}")
        raise ModelError(f"{endpoint} ({code}) {why}{after}") from None
    finally:
        logging.set_verbosity(level)
