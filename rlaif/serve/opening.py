"""From the words of the command line to a target: the one place that looks at what TARGET names."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rlaif.api.inputs import label_of, model_of
from rlaif.api.reward import RewardModel, is_reward_model
from rlaif.api.scorers import by_model, scored_by_reward
from rlaif.config import load_recipe
from rlaif.config.judging import ChecklistMode, ContrastMode, RateMode, ScoreMode
from rlaif.config.models import ClientModel, JudgeModel, VllmModel
from rlaif.config.scoring import JudgeScore, Scored
from rlaif.constitution import Constitution, load_constitution
from rlaif.errors import ConfigError, did_you_mean, refuse_given
from rlaif.models.engine import Engine
from rlaif.models.open import open_model, opened
from rlaif.models.server import VllmChatModel
from rlaif.records import Message, Prompt, content_id
from rlaif.resources import available
from rlaif.rewards.open import open_rewards
from rlaif.serve.target import TOGETHER, JudgeTarget, Question, RewardTarget, Target, comparing, first_mode

if TYPE_CHECKING:
    from rlaif.models.local.parsing import TextParser

RATE_MODES = (ScoreMode(), ChecklistMode(), ContrastMode())


class Wish(NamedTuple):
    """What the command line says of the target."""

    name: str
    overrides: Sequence[str] = ()
    judge: str | None = None
    """Of a constitution: a model as the API names one."""
    mode: str | None = None
    """Of a constitution: how it scores."""
    run: Path | None = None
    """Of a recipe whose scoring reads a reward model: the run that has one."""
    template: str | None = None
    """The model whose chat template the trainers' texts have; none: the reward model's own, or the policy's."""


class Opened(NamedTuple):
    """A target, and what reads trainers' texts for it."""

    target: Target
    parser: TextParser | None


def open_target(wish: Wish, scope: str) -> Opened:
    """The target of these words; the caller closes it. ConfigError with the nearest name where there is none."""
    path = Path(wish.name).expanduser()
    if path.is_dir():
        if not is_reward_model(path) and (path / "recipe.yaml").is_file():
            return _of_recipe(wish._replace(name=str(path / "recipe.yaml")), scope, path)
        return _of_folder(wish, path)
    if wish.name in available("constitutions") or _is_constitution(path):
        return _of_constitution(wish, scope)
    if wish.name in available("recipes") or path.is_file():
        return _of_recipe(wish, scope)
    known = [*available("constitutions"), *available("recipes")]
    raise ConfigError(
        f"TARGET {wish.name!r}: no run or reward model, no recipe and no constitution of that name or path"
        f"{did_you_mean(wish.name, known)}"
    )


def _is_constitution(path: Path) -> bool:
    """By its first keys: a broken one is still meant as one."""
    return path.is_file() and "rlaif/constitution/" in path.read_bytes()[:4096].decode("utf-8", "replace")


def _of_folder(wish: Wish, path: Path) -> Opened:
    _only(wish, "a reward model", "template")
    model = RewardModel.load(path)
    members = _members(model.folder)

    target = RewardTarget(_name(path), _revision(members), by_model(model), ExitStack())
    # The weights are read now: what is no reward model ends here, and not with the first request.
    target.score([Question(Prompt.of((Message(role="user", content="Hello"),)), "Hello.")])
    return Opened(target, _parser(wish.template or str(members[0])))


def _members(folder: Path) -> list[Path]:
    return sorted(folder.glob("member-*")) or [folder]


def _revision(folders: Sequence[Path]) -> str:
    """A hash of the weights; of several models, of theirs."""
    from rlaif.models.embedded import resolve_model  # noqa: PLC0415 (brings torch)

    found = [resolve_model(str(folder)).revision for folder in folders]
    return found[0] if len(found) == 1 else content_id(*found)


def _name(path: Path) -> str:
    whole = path.resolve()
    return whole.parent.name if whole.name == "reward_model" else whole.name


def _of_constitution(wish: Wish, scope: str) -> Opened:
    _only(wish, "a constitution", "template", "judge", "mode")
    if wish.judge is None:
        raise ConfigError(f"TARGET {wish.name!r}: a constitution needs a judge: --judge vllm:Qwen/Qwen3-8B, say")
    constitution = load_constitution(wish.name)
    if wish.mode is None:
        mode = first_mode(constitution, RATE_MODES)
    else:
        mode = label_of(wish.mode, {}).mode
        if not isinstance(mode, RateMode):
            valid = "checklist, contrast, score, reference, turns"
            raise ConfigError(f"--mode {wish.mode}: looks at two responses; valid choices: {valid}")
    config = model_of(wish.judge)
    return Opened(_judge(constitution, config, mode, label_of("compare", {}), 0, scope), _parser(wish.template))


def ready_engine(config: JudgeModel) -> Engine:
    """The engine, its server running: who is told that the service listens need not wait for it."""
    engine = open_model(config)
    if isinstance(engine, VllmChatModel):
        engine.start()
    return engine


def _judge(
    constitution: Constitution, config: JudgeModel, mode: Any, section: Any, seed: int, scope: str
) -> JudgeTarget:
    engine = ready_engine(config)
    workers = min(TOGETHER, config.concurrency) if isinstance(config, ClientModel | VllmModel) else 1
    own = content_id(scope, config.model_dump(mode="json"))
    try:
        return JudgeTarget(constitution, engine, mode, section, seed, own, workers)
    except ConfigError:
        engine.close()
        raise


def _of_recipe(wish: Wish, scope: str, home: Path | None = None) -> Opened:
    """`home` is the run whose recipe it is."""
    _only(wish, "a recipe", "template", "overrides", "run")
    from rlaif.models.local.machine import settled, torch_dtype  # noqa: PLC0415 (brings torch)
    from rlaif.training.reward.ensemble import RewardModels  # noqa: PLC0415

    recipe = settled(load_recipe(wish.name, wish.overrides))
    method = recipe.optimise
    if not isinstance(method, Scored):
        raise ConfigError(
            f"TARGET {wish.name!r}: optimise.kind={method.kind} scores nothing; name a run's reward model"
        )
    if not method.reads_reward_model:
        refuse_given({"--run": wish.run}, f"the optimise.scoring of {wish.name} reads no reward model; leave it out")
    parser = _parser(wish.template or recipe.policy.model)
    if isinstance(method.scoring, JudgeScore) and getattr(method.scoring.mode, "against", None) is None:
        model = method.scoring.model or recipe.judge
        section, constitution = comparing(recipe.label), load_constitution(recipe.constitution)
        return Opened(_judge(constitution, model, method.scoring.mode, section, recipe.seed, scope), parser)
    folder = None
    if method.reads_reward_model:
        run = wish.run or home or Path("runs") / recipe.name
        folder = run / "reward_model"
        if not is_reward_model(run):
            raise ConfigError(f"{folder}: not there; optimise.scoring reads a reward model: name the run by --run")
    models = RewardModels(folder, torch_dtype(recipe.policy.dtype))
    stack = ExitStack()
    rewards = open_rewards(
        recipe,
        lambda model: opened(model, content_id(scope, model.model_dump(mode="json"))),
        models,
        method.microbatch_tokens,
    )
    reward = stack.enter_context(rewards)(method.scoring)
    weights = _revision(_members(folder)) if folder else ""
    name, revision = f"{recipe.name}:{method.scoring.kind}", content_id(recipe.model_dump(mode="json"), weights)
    return Opened(RewardTarget(name, revision, partial(scored_by_reward, reward, lambda *_: None), stack), parser)


def _parser(model: str | None) -> TextParser | None:
    if model is None:
        return None
    from rlaif.models.local.load import load_tokenizer  # noqa: PLC0415 (brings torch)
    from rlaif.models.local.parsing import TextParser  # noqa: PLC0415

    return TextParser(load_tokenizer(model))


def _only(wish: Wish, what: str, *options: str) -> None:
    """ConfigError for an option that says nothing of such a target."""
    given = {option: getattr(wish, option) for option in ("judge", "mode", "run") if option not in options}
    overrides = wish.overrides[:1] if "overrides" not in options else ()
    given = dict.fromkeys(overrides, True) | {f"--{option}": value for option, value in given.items()}
    refuse_given(given, f"{wish.name} is {what}, of which it says nothing")
