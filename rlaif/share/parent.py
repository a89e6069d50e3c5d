"""What a model was made from: its name on the hub and its licence, as far as its own files or the hub tell them."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rlaif.errors import RlaifError
from rlaif.models.files import adapter_base
from rlaif.stats import at
from rlaif.strict_yaml import read_mapping

MOST_GENERATIONS = 10
"""Of runs that went on from each other's models."""
HUB_TIMEOUT_S = 10
_SNAPSHOT = re.compile(r"(?:^|/)models--([^/]+?)--([^/]+)/snapshots/([0-9a-f]+)/?$")
"""A folder of the hub's cache."""
_HUB_NAME = re.compile(r"[\w-][\w.-]*(?:/[\w-][\w.-]*)?", re.ASCII)
_LICENSE = ("license", "license_name", "license_link")


class Parent(NamedTuple):
    """A model that another was trained from."""

    name: str
    """As the card calls it: of a folder on this disk only its last part."""
    base: str | None
    """Its name on the hub, or that of the model it was made from; None where no file tells one."""
    license: Mapping[str, Any]
    """`license`, maybe `license_name` and `license_link`, as a card has them; empty where nothing tells it."""
    source: str
    """Who told the licence, or who did not."""

    @property
    def sentence(self) -> str:
        """The licence in words."""
        if not self.license:
            return f"The licence of {self.name} cannot be told: {self.source}. Find it before you pass this on."
        named = self.license.get("license_name") or self.license["license"]
        return f"{self.name} has the licence {named}, as {self.source} says, and that binds what is made from it."


def parent_of(name: str, revision: str | None, local: Collection[str] = (), generation: int = 0) -> Parent:
    """The parent by the name that a recipe gives it. `local`: paths that the run read, so that a folder which is gone
    by now is not taken for a name on the hub."""
    from rlaif.models import embedded  # noqa: PLC0415 (brings httpx)

    if name == embedded.EMBEDDED:
        return Parent(embedded.HUB_NAME, embedded.HUB_NAME, {"license": embedded.LICENSE}, "its maker")
    folder = Path(name).expanduser()
    if not folder.is_dir():
        gone = folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1 or str(folder) in local
        return Parent(folder.name, None, {}, "its folder is gone") if gone else _of_hub(name, revision)
    card = _front_matter(folder / "README.md")
    told, base = _license_in(card), _base_in(card)
    if told and base:
        return Parent(folder.name, base, told, "its README.md")
    older = (base, None) if base else _made_from(folder)
    elder = parent_of(*older, (), generation + 1) if older and generation < MOST_GENERATIONS else None
    if told:
        return Parent(folder.name, elder.base if elder else None, told, "its README.md")
    if elder is None:
        return Parent(folder.name, None, {}, "it is a folder whose README.md names none")
    snapshot = _SNAPSHOT.search(str(folder.resolve()))
    return elder if snapshot else elder._replace(name=f"{folder.name}, made from {elder.name},")


def _made_from(folder: Path) -> tuple[str, str | None] | None:
    """The older model of an adapter, of a snapshot in the hub's cache, or of what a run made."""
    if found := _SNAPSHOT.search(str(folder.resolve())):
        return f"{found[1]}/{found[2]}", found[3]
    try:
        if base := adapter_base(folder):
            return base
        recipe = folder.parent / "recipe.yaml"
        if folder.name not in ("policy", "reward_model") or not recipe.is_file():
            return None
        _, values = read_mapping(recipe, "a recipe is a mapping of sections")
    except RlaifError:
        return None
    return model_of(values, folder.name)


def model_of(recipe: Mapping[str, Any], what: str) -> tuple[str, str | None] | None:
    """Name and revision of what the policy, or the reward model, of a recipe starts from; None where none is there."""
    own = at(recipe, "reward.model") if what == "reward_model" else None
    name, revision = (own, None) if own else (at(recipe, "policy.model"), at(recipe, "policy.revision"))
    return (name, revision) if isinstance(name, str) else None


def _of_hub(name: str, revision: str | None) -> Parent:
    """By its card, in the cache or on the hub."""
    from huggingface_hub import HfApi, try_to_load_from_cache  # noqa: PLC0415 (slow, and not for folders)

    cached = try_to_load_from_cache(name, "README.md", revision=revision)
    if isinstance(cached, str) and (told := _license_in(_front_matter(Path(cached)))):
        return Parent(name, name, told, "its README.md")
    try:
        card = HfApi().model_info(name, revision=revision, timeout=HUB_TIMEOUT_S).card_data
    except Exception:  # no network, no such model, a card that nobody can read: each leaves it unknown
        return Parent(name, name, {}, "the hub did not say")
    told = _license_in(dict(vars(card)) if card else {})
    return Parent(name, name, told, "its README.md" if told else "its card names none")


def _front_matter(readme: Path) -> Mapping[str, Any]:
    """Empty where there is none, and where it cannot be read."""
    from huggingface_hub import metadata_load  # noqa: PLC0415

    try:
        return metadata_load(readme) or {} if readme.is_file() else {}
    except Exception:  # whatever YAML's reader raises: the licence is unknown
        return {}


def _base_in(card: Mapping[str, Any]) -> str | None:
    """The first model of the hub that a card says its own was made from."""
    base = card.get("base_model")
    first = base[0] if isinstance(base, list) and base else base
    return first if isinstance(first, str) and _HUB_NAME.fullmatch(first) else None


def _license_in(card: Mapping[str, Any]) -> dict[str, Any]:
    """What a card says of the licence. A link within its own folder leads nowhere from another."""
    told = {key: value for key in _LICENSE if isinstance(value := card.get(key), str | list) and value}
    if not str(told.get("license_link", "https://")).startswith("https://"):
        del told["license_link"]
    return told if "license" in told and told["license"] != "unknown" else {}
