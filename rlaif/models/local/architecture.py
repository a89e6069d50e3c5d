"""What of a model rlaif can compute, found by trying it: no list of names, which would grow stale.

How rows are computed beside each other is tried in packing.py; here, where in the model its hidden states are, and
what lies between them and its logits.

Shape suffixes: B rows, S tokens of the longest, N tokens, H hidden size, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlaif.errors import ModelError, one_line

FINE, COARSE = 1e-4, 0.05
"""Relative error of a token's state that is rounding, in float32 and in bf16, which round to 1e-6 and to a hundredth.
What looks at too much or too little is wrong by a tenth and more."""
LONGEST = 300
"""Rows of the trial go beyond a window of the model's, if it is no wider than this."""


def agree(found: Tensor, expected: Tensor) -> bool:
    """Whether two ways give the same but for rounding: every token's numbers in float32; in bf16, where a router may
    send a token elsewhere for a rounding, all together."""
    coarse = expected.dtype != torch.float32
    error, size = (x.norm(dim=None if coarse else -1) for x in (found.float() - expected.float(), expected.float()))
    return bool((error <= (COARSE if coarse else FINE) * size).all())


def trial(config: Any) -> list[int]:
    """Token ids to try a model with, one of a kind where the vocabulary allows it, and no padding among them."""
    text = config.get_text_config()
    reach = [v for k, v in text.to_dict().items() if ("window" in k or "chunk" in k) and isinstance(v, int)]
    length = 12 + max((v for v in reach if v <= LONGEST), default=0)
    usual = [i for i in range(3, min(text.vocab_size, 1000)) if i != text.pad_token_id]
    return [usual[7919 * (i + 1) % len(usual)] for i in range(length)]


def pass_through(
    backbone: Any, ids: Sequence[Sequence[int]], positions: Sequence[Sequence[int]] | None, **options: Any
) -> Tensor:
    """states_BSH of rows of one length. ModelError for positions that its code has no place for."""
    device = next(backbone.parameters()).device
    ids_BS = torch.tensor(ids, device=device)
    known = inspect.signature(backbone.forward).parameters
    if "use_cache" in known:
        options["use_cache"] = False
    if positions is not None:
        if "position_ids" not in known:
            raise ModelError(f"{type(backbone).__name__} takes no positions")
        # A mask that hides nothing: without one transformers guesses from the positions where sequences begin.
        options |= {"position_ids": torch.tensor(positions, device=device), "attention_mask": torch.ones_like(ids_BS)}
    states_BSH: Tensor = backbone(input_ids=ids_BS, **options).last_hidden_state
    return states_BSH


def constant_up_to(config: Any) -> int | None:
    """The longest row whose rotations do not depend on its length; beyond it rows of a batch would change each other
    (`longrope` of Phi-3, `dynamic`). None: all."""
    text = config.get_text_config()
    rope = getattr(text, "rope_parameters", None) or {}
    for each in [rope, *(kind for kind in rope.values() if isinstance(kind, dict))]:
        if each.get("rope_type") in {"dynamic", "longrope"}:
            limit: int = each.get("original_max_position_embeddings") or text.max_position_embeddings
            return limit
    return None


def context_of(config: Any) -> int | None:
    """The longest row that the model has positions for; None where it counts none."""
    text = config.get_text_config()
    found = (getattr(text, name, None) for name in ("max_position_embeddings", "n_positions", "max_seq_len"))
    return next((limit for limit in found if isinstance(limit, int)), None)


def heads_of(config: Any) -> tuple[int, int, int]:
    """Query heads, key heads and the size of a head; zeros for a model that has none."""
    text = config.get_text_config()
    heads: int = getattr(text, "num_attention_heads", None) or 0
    if not heads:
        return 0, 0, 0
    size = getattr(text, "head_dim", None) or text.hidden_size // heads
    return heads, getattr(text, "num_key_value_heads", None) or heads, size


# ------------------------------------------------------------------------------------------------ the model around it


def backbone_of(model: Any) -> Any:
    """The module that turns token ids into hidden states, as the model's own forward calls it."""
    return model.get_submodule(_look(model)[0])


def output_of(model: Any) -> Any:
    """What makes logits_NV of hidden_NH: the output embeddings, or where these are not all of it (scaled or capped
    logits, a head of several layers) the model's own code."""
    backbone, plain = _look(model)
    return model.get_output_embeddings() if plain else OwnOutput(model, model.get_submodule(backbone))


def next_logits(model: Any, hidden_NH: Tensor) -> Tensor:
    """logits_NV in float32, also of bf16 weights, where possible: bf16 rounds a logit near 20 to the nearest eighth,
    which is more than a weak judge says."""
    output = output_of(model)
    if isinstance(output, OwnOutput):
        return output(hidden_NH).float()
    bias = None if output.bias is None else output.bias.float()
    return F.linear(hidden_NH.float(), output.weight.float(), bias)


class OwnOutput:
    """The model's own way from hidden states to logits: its forward, with the backbone's place taken by the states."""

    def __init__(self, model: Any, backbone: Any) -> None:
        self._model, self._backbone = model, backbone

    @property
    def weight(self) -> Any:
        """Of the output embeddings, to see how they are laid out."""
        return getattr(self._model.get_output_embeddings(), "weight", None)

    def __call__(self, hidden_NH: Tensor) -> Tensor:
        states = _States(hidden_NH.unsqueeze(0))
        no_ids = torch.zeros((1, len(hidden_NH)), dtype=torch.long, device=hidden_NH.device)
        self._backbone.forward = lambda *args, **options: states
        try:
            logits_NV: Tensor = self._model(input_ids=no_ids).logits[0]
        finally:
            del self._backbone.forward
        return logits_NV


class _States:
    """A backbone's output that holds nothing else."""

    def __init__(self, states_1NH: Tensor) -> None:
        self.last_hidden_state = states_1NH

    def __getitem__(self, place: Any) -> Any:
        return (self.last_hidden_state,)[place]

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


def _look(model: Any) -> tuple[str, bool]:
    """The backbone's name in the model, and whether the output embeddings alone make its logits of the states."""
    known: tuple[str, bool] | None = getattr(model, "_rlaif_parts", None)
    if known is None:
        known = model._rlaif_parts = _try_parts(model)
    return known


@torch.no_grad()
def _try_parts(model: Any) -> tuple[str, bool]:
    ids, kind = trial(model.config), type(model).__name__
    name, states_NH, logits = _watch(model, torch.tensor([ids], device=model.device))
    backbone, output = model.get_submodule(name), model.get_output_embeddings()
    try:
        if not agree(pass_through(backbone, [ids], None)[0], states_NH):
            problem = f" gives its {name} more than token ids; rlaif cannot compute it"
        elif output is None:
            if _is_scalar_head(model.score, states_NH[-1], logits):
                return name, True
            problem = " scores by more than `score` on its last token's state"
        elif isinstance(output, nn.Linear) and agree(output(states_NH), logits):
            return name, True
        elif agree(OwnOutput(model, backbone)(states_NH), logits):
            return name, False
        else:
            problem = ": its logits are not made of its last hidden states alone"
    except (AttributeError, IndexError, TypeError, ValueError, RuntimeError) as error:
        problem = f": rlaif cannot compute it part by part ({one_line(error)})"
    raise ModelError(f"{kind}{problem}")


def _is_scalar_head(head: nn.Linear, state_H: Tensor, score_1: Tensor) -> bool:
    """Whether the head's matrix alone makes the score of the state; the rounding allowed is absolute for small ones."""
    rounding = 1e-3 if state_H.dtype == torch.float32 else 0.1
    ours = F.linear(state_H.float(), head.weight.float())
    return torch.allclose(ours, score_1.float(), rtol=rounding, atol=rounding)


def _watch(model: Any, ids_1N: Tensor) -> tuple[str, Tensor, Tensor]:
    """Of one pass: the name of the module that the model calls for hidden states, these, and what it makes of them."""
    inside: list[str] = []
    found: dict[str, Tensor] = {}

    def leave(name: str, output: Any) -> None:
        inside.pop()
        states = getattr(output, "last_hidden_state", None)
        if not inside and states is not None:
            found.setdefault(name, states)

    hooks = []
    for name, module in model.named_modules():
        if module is model:
            continue
        hooks.append(module.register_forward_pre_hook(lambda module, args, name=name: inside.append(name)))
        hooks.append(module.register_forward_hook(lambda module, args, output, name=name: leave(name, output)))
    try:
        logits_1NV = model(input_ids=ids_1N).logits
    except Exception as error:  # whatever a model's code raises
        raise ModelError(f"{type(model).__name__} does not read token ids alone ({one_line(error)})") from None
    finally:
        for hook in hooks:
            hook.remove()
    if not found:
        raise ModelError(f"{type(model).__name__} keeps no module for its hidden states; rlaif cannot compute it")
    name, states_1NH = next(iter(found.items()))
    return name, states_1NH[0], logits_1NV[0]
