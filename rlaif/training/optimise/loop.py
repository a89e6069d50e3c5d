"""Policy optimisation from rollouts: one loop for PPO, REINFORCE, RLOO and GRPO. The body of its loop is one step.

What makes the methods differ is in estimators.py; who takes part in actors.py; how weights move in updates.py; what
stops a run in watch.py. The mathematics is in `losses`, optimiser and checkpoints in session.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from rlaif.config.optimise import OnPolicy, Ppo
from rlaif.errors import TrainingError
from rlaif.records import Prompt
from rlaif.training.lora import trainable
from rlaif.training.optimise import watch
from rlaif.training.optimise.actors import Actors, modules_of
from rlaif.training.optimise.estimators import State, make_targets
from rlaif.training.optimise.replay import Memory, remember, replay
from rlaif.training.optimise.rollout import describe, prompts_of_step, roll_out
from rlaif.training.optimise.updates import take_step
from rlaif.training.session import Group, Session
from rlaif.training.tracking import Tracker

TextChecks = Callable[[Sequence[str], Sequence[Prompt]], dict[str, float]]
"""From response texts and their prompts to pass rates by name: lets the log show checked principles; training never
sees them."""


def train_policy(
    actors: Actors,
    prompts: Sequence[Prompt],
    section: OnPolicy,
    seed: int,
    checkpoints: Path,
    tracker: Tracker,
    pass_rates: TextChecks,
) -> None:
    """Train the policy in place. Goes on from the newest checkpoint, to the same numbers."""
    session = Session(groups_of(actors, section), checkpoints, section.max_grad_norm)
    done, saved = session.restore()
    tracker.rewind(done)
    memory: Memory = saved.pop("replay", [])
    kept = {"replay": memory} if section.replay else {}
    state = State(**saved) if saved else State.first(section)
    per_step = section.rollouts_per_step // section.responses_per_prompt
    for step in range(done, section.steps):
        # One step: write, score, estimate, look, learn.
        actors.sampler.sync()
        rollouts = roll_out(actors, prompts_of_step(prompts, per_step, step, seed), section, step, seed)
        targets = make_targets(rollouts, section, state)
        row = watch.summarise(rollouts, targets, state) | watch.ask_gold(actors.rewards, section, rollouts, step)
        passed = pass_rates(rollouts.texts, rollouts.prompts)
        limits = watch.limits(section.stop, row, state)
        beyond = watch.beyond(limits, state)
        if beyond and not state.beyond:
            # after the last good step; kept until things are well again
            session.save(step, state.saved() | kept)
        if stopped := watch.broken(section.stop, limits, beyond):
            tracker.log(step, row | passed)
            where = f"{section.kind} step {step}"
            raise TrainingError(watch.describe_stop(stopped, where, section.stop.patience, rollouts, str(checkpoints)))
        actors.rest()
        row |= take_step(actors, session, rollouts, targets, section, step, seed) | passed
        if not row["early_stop"]:  # target_kl bounds the whole step
            row |= replay(actors, session, memory, section, step, seed)
        remember(memory, section.replay, rollouts, targets)
        tracker.log(step, row)
        if step % section.print_every == 0:
            tracker.say(describe(rollouts, targets.kl_BT.sum(1), step % len(rollouts.rows)))
        state = state.after(section, row, beyond)
        if (step + 1) % section.checkpoint_every == 0 and not beyond:
            session.save(step + 1, state.saved() | kept)


def groups_of(actors: Actors, section: OnPolicy) -> list[Group]:
    """What learns: the policy, and PPO's critic at its own rate."""
    groups = [Group(trainable(actors.policy.model), section.learning_rate)]
    if isinstance(section, Ppo) and actors.critic is not None:
        groups.append(Group(trainable(*modules_of(actors.critic)), section.critic_learning_rate))
    return groups
