"""Deliberate one-line faults in the mathematics of training, and the test that catches each: kept so that no later
change of a test lets one through. test_mutants.py makes every fault in turn and expects red."""

from __future__ import annotations

from typing import NamedTuple


class Fault(NamedTuple):
    """One line that somebody could get wrong."""

    file: str
    """Below rlaif/."""
    old: str
    """A fragment that occurs exactly once in the file."""
    new: str
    caught_by: str
    """Below tests/."""
    harm: str
    """What it would do to training."""


LOSSES = "training/losses"
MASKED, KL, POLICY = f"{LOSSES}/masked.py", f"{LOSSES}/kl.py", f"{LOSSES}/policy.py"
ADVANTAGES, PREFERENCE = f"{LOSSES}/advantages.py", f"{LOSSES}/preference.py"
MASKS, PACKING = "models/local/masks.py", "models/local/packing.py"
POLICY_MODEL, SCALAR = "training/policy_model.py", "training/scalar_model.py"
SESSION, ATTENTION, HEAD = "training/session.py", "models/local/attention.py", "training/head.py"
LABELS, LIKELIHOOD = "models/labels.py", "models/local/likelihood.py"
DRIVE = "feedback/judge/drive.py"
RATIO, CONTRAST, RATE = "feedback/ratio.py", "feedback/judge/contrast.py", "feedback/judge/rate.py"
FLEX, TOKENS = "models/local/flex.py", "models/local/tokens.py"
ESTIMATORS, ROLLOUT = "training/optimise/estimators.py", "training/optimise/rollout.py"
UPDATES = "training/optimise/updates.py"
REWARD, REWARD_DATA = "training/reward/train.py", "training/reward/data.py"
JUDGE_LOSS, JUDGE_LOOP, JUDGE_METHODS = f"{LOSSES}/judge.py", "training/judge/loop.py", "training/judge/methods.py"
JUDGE_SPLIT, JUDGE_MATERIAL = "audits/judge_training/split.py", "audits/judge_training/material.py"
OBJECTIVE, OFFLINE, DPO = "training/reward/objective.py", "training/offline/loop.py", "training/offline/dpo.py"

FAULTS = [
    # ------------------------------------------------------------------------------------------ density ratios
    Fault(
        RATIO,
        "ratio.logprob_for - ratio.logprob_against",
        "ratio.logprob_for",
        "test_contrast.py::test_p_is_the_sigma_of_the_difference_over_tau",
        "what is likely by itself passes for what follows the principle",
    ),
    Fault(
        RATIO,
        "math.tanh((a.value - b.value) / 2)",
        "math.tanh(a.value - b.value)",
        "test_contrast.py::test_p_is_the_sigma_of_the_difference_over_tau",
        "labels are twice as sure as tau says",
    ),
    Fault(
        CONTRAST,
        "for instruction in (principle.contrast.for_, principle.contrast.against)",
        "for instruction in (principle.contrast.against, principle.contrast.for_)",
        "test_contrast.py::test_p_is_the_sigma_of_the_difference_over_tau",
        "the policy learns the opposite of every principle",
    ),
    Fault(
        CONTRAST,
        'update={"second": mode.against is not None}',
        'update={"second": False}',
        "test_contrast.py::test_two_models_stand_for_the_two_sides_and_one_at_a_time_is_open",
        "the strong model is held against itself",
    ),
    Fault(
        LIKELIHOOD,
        "before = [places[-count:]",
        "before = [places[:count]",
        "test_likelihood.py::test_answers_after_instructions_at_the_end_share_what_stands_before_these",
        "where siblings share a part of their prompts, tokens of the prompt are read for those of the answer",
    ),
    Fault(
        LIKELIHOOD,
        "logprob=sum(own[:text]), end_logprob=sum(own[text:])",
        "logprob=sum(own), end_logprob=sum(own[text:])",
        "test_likelihood.py::test_answers_are_as_likely_as_the_definition_says",
        "a response that a token limit cut off is judged by the end that it does not have",
    ),
    Fault(
        DRIVE,
        "for number in sorted(asking)",
        "for number in asking",
        "test_drive.py::test_each_work_gets_its_own_replies_in_order_and_each_turn_is_one_stream",
        "whichever reply comes first decides the order of the next requests, and a resumed run cuts other batches",
    ),
    Fault(
        DRIVE,
        "self.replies[number - self.first] = reply",
        "self.replies[-self.missing] = reply",
        "test_drive.py::test_each_work_gets_its_own_replies_in_order_and_each_turn_is_one_stream",
        "a reply that overtakes another answers the other's question: verdicts of two orders are exchanged",
    ),
    Fault(
        RATE,
        "return contrast.requests(mode, template, prompt, text, by)",
        "pass",
        "test_contrast.py::test_each_response_is_read_under_both_instructions_and_asked_about_once",
        "contrast asks for labels",
    ),
    # ------------------------------------------------------------------------------------- label probabilities
    Fault(
        LABELS,
        "found[label] = total(spellings)",
        "found[label] = spellings[-1]",
        "test_labels.py::test_tokens_that_read_alike_are_added_up",
        "the last token that reads like a label overwrites the likely one, and inverts the verdict",
    ),
    Fault(
        LABELS,
        "math.log(max(rest, ROUNDING) / len(missing))",
        "0.0",
        "test_labels.py::test_nor_more_than_what_the_told_ones_leave",
        "a label that was not told is thought likelier than it can be",
    ),
    # ------------------------------------------------------------------------------------------- means, masks
    Fault(
        MASKED,
        "(values_BT * mask_BT).sum() / mask_BT.sum()",
        "(values_BT * mask_BT).sum() / mask_BT.numel()",
        "test_losses.py::test_means_see_real_tokens_only",
        "padding dilutes every loss and metric",
    ),
    Fault(
        MASKED,
        "((values_BT * mask_BT).sum(1) / mask_BT.sum(1)).mean()",
        "(values_BT * mask_BT).sum(1).mean()",
        "test_losses.py::test_the_mean_of_means_weighs_responses_and_the_mean_tokens",
        "GRPO pulls harder on long responses",
    ),
    Fault(
        MASKED,
        "variance = masked_mean((values_BT - mean) ** 2, mask_BT)",
        "variance = ((values_BT - mean) ** 2).mean()",
        "test_losses.py::test_whitening_is_over_real_tokens_whatever_the_padding_holds",
        "the size of an update depends on how ragged the batch is",
    ),
    Fault(
        MASKED,
        "(whitened if shift_mean else whitened + mean)",
        "(whitened + mean if shift_mean else whitened)",
        "test_ppo_checklist.py::test_rewards_are_whitened_without_moving_their_mean_if_asked",
        "advantages keep a mean, and rewards lose theirs",
    ),
    # ---------------------------------------------------------------------------------------------------- KL
    Fault(
        KL,
        "return logprobs_BT - ref_logprobs_BT",
        "return ref_logprobs_BT - logprobs_BT",
        "test_losses.py::test_the_estimates_expect_to_the_exact_kl",
        "the penalty pays for leaving the reference",
    ),
    Fault(
        KL,
        "log_ratio_BT = ref_logprobs_BT - logprobs_BT",
        "log_ratio_BT = logprobs_BT - ref_logprobs_BT",
        "test_losses.py::test_the_estimates_expect_to_the_exact_kl",
        "KL is measured upside down: nearly right close to the reference, wildly wrong far from it",
    ),
    Fault(
        KL,
        "kl_per_response / kl.target - 1",
        "kl.target / kl_per_response - 1",
        "test_losses.py::test_adaptive_kl_coefficient_is_the_formula_with_the_error_clipped",
        "the controller loosens the leash when the policy runs",
    ),
    # ------------------------------------------------------------------------------------------- policy, critic
    Fault(
        POLICY,
        "last_B = mask_BT.sum(1) - 1",
        "last_B = mask_BT.sum(1) * 0 + mask_BT.shape[1] - 1",
        "test_losses.py::test_the_score_is_on_the_last_real_token_and_the_kl_on_every_one",
        "the score falls on padding and is lost",
    ),
    Fault(
        POLICY,
        "rewards_BT = -kl_coef * kl_BT * mask_BT",
        "rewards_BT = kl_coef * kl_BT * mask_BT",
        "test_ppo_checklist.py::test_the_kl_is_in_every_tokens_reward_and_the_score_on_the_last_real_one",
        "distance from the reference is rewarded",
    ),
    Fault(
        POLICY,
        "return ClippedLoss(torch.maximum(plain_BT, clipped_BT), clipped_BT > plain_BT)",
        "return ClippedLoss(torch.minimum(plain_BT, clipped_BT), clipped_BT > plain_BT)",
        "test_losses.py::test_clipping_takes_the_pessimistic_side",
        "the clip takes the optimistic side and bounds nothing",
    ),
    Fault(
        POLICY,
        "ratio_BT.clamp(1 - clip, 1 + clip)",
        "ratio_BT.clamp(max=1 + clip)",
        "test_losses.py::test_clipping_takes_the_pessimistic_side",
        "bad tokens are pushed down without end",
    ),
    Fault(
        POLICY,
        "ratio_BT = torch.exp(logprobs_BT - old_logprobs_BT)",
        "ratio_BT = torch.exp(logprobs_BT - old_logprobs_BT.mean())",
        "test_losses.py::test_at_ratio_one_the_gradient_is_reinforces",
        "the ratio of the first update is not 1",
    ),
    Fault(
        POLICY,
        "values_BT.clamp(old_values_BT - clip, old_values_BT + clip)",
        "values_BT.clamp(-clip, clip)",
        "test_losses.py::test_a_value_within_the_clip_is_never_counted_as_clipped",
        "the critic cannot learn values larger than the clip",
    ),
    Fault(
        POLICY,
        "ClippedLoss(0.5 * torch.maximum(plain_BT, clipped_BT)",
        "ClippedLoss(0.5 * torch.minimum(plain_BT, clipped_BT)",
        "test_losses.py::test_value_clipping",
        "a value that ran off is not pulled back",
    ),
    Fault(
        POLICY,
        "torch.exp(logprobs_BT - sampler_logprobs_BT).clamp(max=cap)",
        "torch.exp(sampler_logprobs_BT - logprobs_BT).clamp(max=cap)",
        "test_losses.py::test_capped_weights_make_the_samplers_mean_the_policys",
        "the correction doubles the sampler's mismatch",
    ),
    Fault(
        POLICY,
        "@torch.no_grad()\ndef importance_weights",
        "def importance_weights",
        "test_losses.py::test_importance_weights_are_the_capped_ratio_without_a_gradient",
        "the policy learns to please the correction",
    ),
    Fault(
        POLICY,
        "multiplier + learning_rate * (cost_mean - limit)",
        "multiplier - learning_rate * (cost_mean - limit)",
        "test_losses.py::test_a_multiplier_grows_while_the_limit_is_broken_and_never_falls_below_zero",
        "a broken limit is forgiven",
    ),
    Fault(
        POLICY,
        "penalised_B = penalised_B - multiplier * cost_B",
        "penalised_B = penalised_B + multiplier * cost_B",
        "test_losses.py::test_the_constrained_score_is_less_its_costs_and_bounded",
        "costs are sought",
    ),
    # ------------------------------------------------------------------------------------------- advantages
    Fault(
        ADVANTAGES,
        "delta_B = rewards_BT[:, t] + gamma * next_value_B - values_BT[:, t]",
        "delta_B = rewards_BT[:, t] + next_value_B - values_BT[:, t]",
        "test_losses_advantages.py::test_gae_is_its_double_sum",
        "the discount reaches the advantages and not the values",
    ),
    Fault(
        ADVANTAGES,
        "running_B = (delta_B + gamma * lam * running_B) * mask_BT[:, t]",
        "running_B = delta_B + gamma * lam * running_B",
        "test_losses_advantages.py::test_gae_is_its_double_sum",
        "advantages of padding leak into short responses",
    ),
    Fault(
        ADVANTAGES,
        "values_BT = values_BT * mask_BT",
        "values_BT = values_BT * 1",
        "test_losses_advantages.py::test_gae_is_its_double_sum",
        "a value after the end of a response is bootstrapped from",
    ),
    Fault(
        ADVANTAGES,
        "centred * len(members) / (len(members) - 1)",
        "centred",
        "test_losses_advantages.py::test_leave_one_out_is_the_reward_less_the_mean_of_the_others",
        "a response is its own baseline: the gradient is biased towards 0",
    ),
    Fault(
        ADVANTAGES,
        "difference = reward_B[members] - reward_B[members[0]]",
        "difference = reward_B[members] - 0.0",
        "test_losses_advantages.py::test_a_group_of_equal_rewards_teaches_exactly_nothing",
        "rounding errors of equal rewards become full-size advantages",
    ),
    Fault(
        ADVANTAGES,
        "centred / (centred.std() + 1e-6)",
        "centred / (centred.std() + 1e-6) ** 2",
        "test_losses_advantages.py::test_group_relative_is_the_standard_score_within_the_group",
        "groups with nearly equal rewards drown the rest",
    ),
    Fault(
        ADVANTAGES,
        "decay * baseline + (1 - decay) * reward_mean",
        "(1 - decay) * baseline + decay * reward_mean",
        "test_losses_advantages.py::test_the_baseline_moves_by_what_decay_leaves",
        "the baseline forgets",
    ),
    Fault(
        ADVANTAGES,
        "return advantage_B.unsqueeze(1) * mask_BT",
        "return (advantage_B / mask_BT.sum(1)).unsqueeze(1) * mask_BT",
        "test_losses_advantages.py::test_a_responses_advantage_is_on_each_of_its_tokens",
        "long bad responses are hardly punished, and responses grow",
    ),
    # ------------------------------------------------------------------------------------- preferences, DPO
    Fault(
        PREFERENCE,
        "(1 - p_N) * F.logsigmoid(-margin_N - target)",
        "(1 - p_N) * F.logsigmoid(-margin_N + target)",
        "test_losses_preference.py::test_target_and_smoothing_are_where_the_formula_has_them",
        "soft labels and margins pull against each other",
    ),
    Fault(
        PREFERENCE,
        "p_N = (1 - smoothing) * p_chosen_N + smoothing * (1 - p_chosen_N)",
        "p_N = (1 - smoothing) * p_chosen_N + smoothing",
        "test_losses_preference.py::test_swapping_chosen_and_rejected_with_p_changes_nothing",
        "smoothing makes labels surer",
    ),
    Fault(
        PREFERENCE,
        "log_loss_N = F.logsigmoid(-margin_N - math.log(theta))",
        "log_loss_N = F.logsigmoid(-margin_N + math.log(theta))",
        "test_losses_preference.py::test_win_loss_and_tie_sum_to_one",
        "one side of the pair is easier to win",
    ),
    Fault(
        PREFERENCE,
        "torch.stack([margin_N / 2, -margin_N / 2, tie])",
        "torch.stack([margin_N, -margin_N, tie])",
        "test_losses_preference.py::test_davidson_is_its_definition",
        "scores come out at half their scale",
    ),
    Fault(
        PREFERENCE,
        "[1 / pairs[prompt_id] for prompt_id in prompt_ids]",
        "[1 / len(pairs) for prompt_id in prompt_ids]",
        "test_losses_preference.py::test_the_pairs_of_a_prompt_share_a_weight_of_one",
        "prompts with many responses rule the reward model",
    ),
    Fault(
        PREFERENCE,
        "beta * (policy_margin_N - reference_margin_N)",
        "beta * policy_margin_N - reference_margin_N",
        "test_losses_preference.py::test_dpo_is_equation_seven_with_soft_labels",
        "DPO starts far from the reference it thinks it is at",
    ),
    Fault(
        PREFERENCE,
        "_lowest(strength_N, treatment.share) & (strength_N < 0)",
        "_lowest(strength_N, treatment.share)",
        "test_losses_preference.py::test_flipping_turns_the_weakest_pairs_that_are_contradicted",
        "labels that every member agrees with are turned round",
    ),
    Fault(
        PREFERENCE,
        "mean_B - penalty * score_MB.var(0, unbiased=False)",
        "mean_B + penalty * score_MB.var(0, unbiased=False)",
        "test_losses_preference.py::test_ensembles_join_by_mean_minimum_and_mean_less_variance",
        "the policy is sent where the reward models know least",
    ),
    # ------------------------------------------------------------------------------- packing, where to read
    Fault(
        PACKING,
        "before[row] = [prompt_end - 1, *range(start, start + len(response) - 1)]",
        "before[row] = [*range(start, start + len(response))]",
        "test_packing.py::test_packed_states_equal_each_row_alone",
        "a token's probability is read in the state that has seen it",
    ),
    Fault(
        PACKING,
        "before[row] = [prompt_end - 1, *range(start",
        "before[row] = [start - 1, *range(start",
        "test_packing.py::test_packed_states_equal_each_row_alone",
        "a response's first token is read after its sibling's last",
    ),
    Fault(
        PACKING,
        "last[row] = start + len(response) - 1 if response",
        "last[row] = start + len(response) - 2 if response",
        "test_packing.py::test_the_last_real_token_is_read_under_any_padding",
        "the reward model reads a token that is not the last",
    ),
    Fault(
        MASKS,
        "(own_RLL | (segments_RL == 0).unsqueeze(1)).tril()",
        "torch.ones_like(own_RLL).tril()",
        "test_packing.py::test_a_response_does_not_see_its_siblings",
        "a response is scored for what its sibling says",
    ),
    Fault(
        PACKING,
        "positions[-1] += range(len(pack.prompt), len(pack.prompt) + len(response))",
        "positions[-1] += range(start, start + len(response))",
        "test_packing.py::test_packed_states_equal_each_row_alone",
        "the second response seems to stand far from its prompt",
    ),
    Fault(
        ROLLOUT,
        "whole_LBT[: len(layers), group, :width]",
        "whole_LBT[: len(layers), sorted(group), :width]",
        "test_ppo.py::test_what_is_said_of_rollouts_does_not_depend_on_the_microbatch",
        "values and log-probabilities land on other responses",
    ),
    Fault(
        MASKS,
        "places = [row * longest + place for",
        "places = [row * length + place for",
        "test_packing.py::test_padding_in_attention_changes_neither_states_nor_gradients",
        "a token gets what its neighbour attended to",
    ),
    # ------------------------------------------------------------------------------------------------- models
    Fault(
        HEAD,
        ".copy_(narrow_RV[:n]).div_(temperature)",
        ".copy_(narrow_RV[:n])",
        "test_policy_model.py::test_logprobs_and_entropy_are_those_of_the_full_softmax",
        "log-probabilities are of another policy than the one that wrote",
    ),
    Fault(
        HEAD,
        "each.exp_RV.mul_(-scaled_R1 / each.sum_R1)",
        "each.exp_RV.mul_(-scaled_R1)",
        "test_head.py::test_values_and_gradients_are_those_of_the_full_softmax",
        "what a token was not is pushed down by logits, not by probabilities",
    ),
    Fault(
        POLICY_MODEL,
        "with self.adapter.off() if self.adapter is not None else contextlib.nullcontext():",
        "with contextlib.nullcontext():",
        "test_policy_model.py::test_the_reference_starts_as_the_policy_and_never_moves",
        "with LoRA the reference is the policy, and KL is always 0",
    ),
    Fault(
        HEAD,
        "each.sum_R1.log().squeeze(1) - each.expected_R()",
        "each.expected_R() - each.sum_R1.log().squeeze(1)",
        "test_policy_model.py::test_logprobs_and_entropy_are_those_of_the_full_softmax",
        "a collapse of entropy looks like its rise",
    ),
    Fault(
        POLICY_MODEL,
        "self.model = model.eval()",
        "self.model = model.train()",
        "test_policy_model.py::test_another_architecture_with_dropout_everywhere_works_the_same",
        "ratios differ from 1 by dropout's noise",
    ),
    Fault(
        TOKENS,
        "while ids and ids[-1] in self.special:",
        "while False:",
        "test_turns.py::test_a_rollout_is_read_as_a_conversation_however_it_ended",
        "a finished response is scored with two end tokens",
    ),
    Fault(
        TOKENS,
        "written=end[: stops[0]] if stops else (*end, tokenizer.eos_token_id),",
        "written=(tokenizer.eos_token_id,),",
        "test_turns.py::test_a_response_ends_as_the_template_ends_it",
        "a turn ends with the tokenizer's end token, whatever the template says",
    ),
    Fault(
        SCALAR,
        "self.model.save_pretrained(folder)",
        "self.model.config.problem_type = None; self.model.save_pretrained(folder)",
        "test_one_score.py::test_transformers_and_trl_read_our_score",
        "the text-classification pipeline squeezes scores into (0, 1)",
    ),
    Fault(
        SCALAR,
        "tokenizer.add_bos_token = tokenizer.add_eos_token = False",
        "pass",
        "test_one_score.py::test_transformers_and_trl_read_our_score",
        "whoever tokenises a rendered conversation begins it twice",
    ),
    Fault(
        SCALAR,
        "return self._read(hidden_BTH) - self.reference",
        "return self._read(hidden_BTH)",
        "test_scalar_model.py::test_the_critic_starts_as_the_reward_model_which_never_moves",
        "the critic's values are told from another zero than rewards are",
    ),
    Fault(
        SCALAR,
        "self._reading = critic.adapter.off",
        "pass",
        "test_scalar_model.py::test_the_critic_starts_as_the_reward_model_which_never_moves",
        "the critic's updates change the reward",
    ),
    # ------------------------------------------------------------------------------------ optimiser, attention
    Fault(
        SESSION,
        "(self.max_grad_norm / (norm + 1e-6)).clamp(max=1.0)",
        "(self.max_grad_norm / (norm + 1e-6))",
        "test_session.py::test_in_float32_it_is_adamw_after_clipping",
        "small gradients are blown up to the limit",
    ),
    Fault(
        SESSION,
        'state["lr"] = group.learning_rate * scale',
        'state["lr"] = group.learning_rate',
        "test_session.py::test_the_scale_multiplies_the_learning_rate_of_each_group",
        "no warm-up and no decay",
    ),
    Fault(
        ATTENTION,
        "scores = scores + mask_R1LL.unsqueeze(2)",
        "scores = scores + 0 * mask_R1LL.unsqueeze(2)",
        "test_packing.py::test_packed_states_equal_each_row_alone",
        "tokens see what comes after them",
    ),
    Fault(
        FLEX,
        "(segments_N[key] == prompts_N[query])) & (key <= query)",
        "(segments_N[key] >= prompts_N[query])) & (key <= query)",
        "test_packing.py::test_attention_by_blocks_is_the_models_own[(1, 5, 60)-two heads to a key]",
        "on a GPU responses see their siblings",
    ),
    Fault(
        FLEX,
        "rule(batch, head, positions_N[query], positions_N[key])",
        "rule(batch, head, query, key)",
        "test_packing.py::test_a_window_hides_what_lies_behind_it[blocks]",
        "on a GPU windows are counted along the pack and not along the row",
    ),
    # ------------------------------------------------------------------------------------ loops: from rollouts
    Fault(
        ESTIMATORS,
        "return score_B - section.missing_eos_penalty * cut_off_B",
        "return score_B + section.missing_eos_penalty * cut_off_B",
        "test_ppo_checklist.py::test_a_missing_eos_is_penalised",
        "responses that never end are paid for it",
    ),
    Fault(
        ESTIMATORS,
        "losses.kl_k1(rollouts.logprobs_BT, rollouts.ref_logprobs_BT) * rollouts.mask_BT",
        "losses.kl_k1(rollouts.logprobs_BT, rollouts.logprobs_BT) * rollouts.mask_BT",
        "test_ppo_checklist.py::test_the_kl_is_in_every_tokens_reward_and_the_score_on_the_last_real_one",
        "no KL penalty at all",
    ),
    Fault(
        ESTIMATORS,
        "learnt_score(rollouts, section, state) - state.kl_coef * kl_of(rollouts).sum(1)",
        "learnt_score(rollouts, section, state) - state.kl_coef * kl_of(rollouts).mean(1)",
        "test_optimise_estimators.py::test_rloo_takes_the_mean_of_the_prompts_others",
        "REINFORCE and RLOO feel a fraction of the KL, less the longer the padding",
    ),
    Fault(
        ESTIMATORS,
        "advantage_B = reward_B - state.baseline",
        "advantage_B = reward_B",
        "test_optimise_estimators.py::test_reinforce_takes_the_moving_average_of_earlier_steps",
        "REINFORCE without a baseline: every response is pushed up, or every one down",
    ),
    Fault(
        ROLLOUT,
        "[place // responses_per_prompt for place in self.places]",
        "[place % responses_per_prompt for place in self.places]",
        "test_optimise_estimators.py::test_rloo_takes_the_mean_of_the_prompts_others",
        "responses to different prompts are compared: the advantage is how easy the prompt is",
    ),
    Fault(
        UPDATES,
        "losses.policy_loss(logprobs_BT, batch.old_BT, batch.advantages_BT, section.clip)",
        "losses.policy_loss(logprobs_BT, logprobs_BT.detach(), batch.advantages_BT, section.clip)",
        "test_ppo.py::test_the_gradient_is_that_of_the_mean_over_the_minibatchs_tokens",
        "the ratio is always 1, and nothing is ever clipped",
    ),
    Fault(
        UPDATES,
        "return mean * count / total",
        "return mean",
        "test_ppo.py::test_microbatches_change_neither_gradient_nor_metrics",
        "the gradient grows with the number of microbatches",
    ),
    Fault(
        UPDATES,
        "kl_BT = losses.kl_k3(logprobs_BT, batch.ref_BT)",
        "kl_BT = losses.kl_k3(logprobs_BT, batch.old_BT)",
        "test_optimise_updates.py::test_grpos_gradient_is_that_of_its_definition",
        "GRPO is held to where it was a step ago, not to the reference",
    ),
    Fault(
        UPDATES,
        "loss_BT = policy.loss_BT if batch.importance_BT is None else policy.loss_BT * batch.importance_BT",
        "loss_BT = policy.loss_BT",
        "test_optimise_updates.py::test_another_programs_tokens_are_weighted_by_how_far_it_was_off",
        "the server's mismatch is never corrected",
    ),
    Fault(
        UPDATES,
        "losses.response_mean(loss_BT, batch.mask_BT)",
        "losses.masked_mean(loss_BT, batch.mask_BT)",
        "test_optimise_updates.py::test_grpos_gradient_is_that_of_its_definition",
        "within a microbatch GRPO weighs tokens where it should weigh responses",
    ),
    # ------------------------------------------------------------------------------- loops: reward model, DPO
    Fault(
        OBJECTIVE,
        "share_NK = weight_NK / weight_NK.sum(0).clamp(min=1e-12)",
        "share_NK = weight_NK / len(lessons)",
        "test_reward.py::test_loss_accuracy_and_gradient_are_those_of_a_loop_over_pairs",
        "weights change the learning rate",
    ),
    Fault(
        REWARD,
        "found_NK = found_NK - score_BK[[place[batch[i].rows[1]] for i in part]]",
        "found_NK = found_NK + score_BK[[place[batch[i].rows[1]] for i in part]]",
        "test_reward.py::test_loss_accuracy_and_gradient_are_those_of_a_loop_over_pairs",
        "the reward model learns to like everything",
    ),
    Fault(
        REWARD_DATA,
        '[p for p in preferences if p.split == "train"], section.max_length',
        "list(preferences), section.max_length",
        "test_reward.py::test_heldout_rows_are_not_trained_on",
        "held-out accuracy is measured on what was learnt",
    ),
    Fault(
        DPO,
        "reference_NK[:, 0] - reference_NK[:, 1],",
        "reference_NK[:, 1] - reference_NK[:, 0],",
        "test_offline.py::test_dpo_is_its_definition",
        "the reference's preference counts twice instead of not at all",
    ),
    Fault(
        OFFLINE,
        "logprobs_B = policy.token_logprobs(present, AS_WRITTEN).sum(1)",
        "logprobs_B = policy.token_logprobs(present, AS_WRITTEN).mean(1)",
        "test_offline.py::test_dpo_is_its_definition",
        "DPO's log-probabilities shrink with padding",
    ),
    # ------------------------------------------------------------------------------------ a judge that learns
    Fault(
        JUDGE_LOSS,
        "logprob_N2L[:, 0, 0], logprob_N2L[:, 1, 1]",
        "logprob_N2L[:, 0, 0], logprob_N2L[:, 1, 0]",
        "test_losses_judge.py::test_compare_is_the_soft_cross_entropy_of_both_orders",
        "the judge learns to take whatever stands first",
    ),
    Fault(
        JUDGE_LOSS,
        ".logsumexp(-1) for tokens in ids",
        ".amax(-1) for tokens in ids",
        "test_losses_judge.py::test_a_label_has_the_probability_of_all_tokens_that_say_it",
        "one spelling of a label is taught, and judging adds up all",
    ),
    Fault(
        JUDGE_LOSS,
        "torch.sign(place[:, None] - place)",
        "torch.sign(place - place[:, None])",
        "test_losses_judge.py::test_score_is_the_cross_entropy_of_the_p_that_judging_computes",
        "the better response is taught to be rated lower",
    ),
    Fault(
        JUDGE_LOSS,
        "[0.0, 1.0, 0.5]",
        "[0.0, 1.0, 0.0]",
        "test_losses_judge.py::test_checklist_is_the_cross_entropy_of_the_p_that_judging_computes",
        "what cannot be told is taught to go against the principle",
    ),
    Fault(
        JUDGE_LOSS,
        "(ratio_N2[:, 0] - ratio_N2[:, 1]) / tau",
        "(ratio_N2[:, 0] - ratio_N2[:, 1]) * tau",
        "test_losses_judge.py::test_contrast_is_the_cross_entropy_of_the_ratios_difference",
        "what is taught is not what is judged",
    ),
    Fault(
        JUDGE_METHODS,
        "(logprob_BT * of_text_BT).sum(1)",
        "logprob_BT.sum(1)",
        "test_judge_train.py::test_what_is_trained_is_the_number_that_the_judge_says[contrast]",
        "the end of a response is taught, and judging leaves it out",
    ),
    Fault(
        JUDGE_LOOP,
        "one.lesson.weight / total",
        "1 / len(lessons)",
        "test_judge_train.py::test_a_pair_counts_by_its_weight_and_in_whatever_microbatch",
        "weights of labels do nothing",
    ),
    Fault(
        JUDGE_LOOP,
        "self._parameters[name].copy_(weights)",
        "del name, weights",
        "test_judge_train.py::test_training_stops_early_and_keeps_the_best",
        "the last epoch is saved as the best",
    ),
    Fault(
        JUDGE_LOOP,
        "seen.agreement > epochs[best].agreement if best == 0 else ahead",
        "ahead",
        "test_judge_train.py::test_the_best_epoch_must_beat_none_and_ties_go_to_the_least_loss",
        "a judge that agrees no more than the untrained one is saved",
    ),
    Fault(
        JUDGE_SPLIT,
        "key_of(label) not in audited | heldout",
        "key_of(label) not in audited",
        "test_judge_train_labels.py::test_no_prompt_is_in_two_parts_and_each_has_its_share",
        "training stops by labels that it has learnt",
    ),
    Fault(
        JUDGE_SPLIT,
        'for m in prompt if m.role != "system"',
        "for m in prompt",
        "test_judge_train_labels.py::test_a_prompt_is_the_same_under_another_system_turn_and_other_blanks",
        "a judge is audited on what it learnt under another system turn",
    ),
    Fault(
        JUDGE_MATERIAL,
        "constitution, pair, principle, first) for first in ORDERS)",
        "constitution, pair, principle, first) for first in ORDERS[::-1])",
        "test_judge_train_labels.py::test_what_is_taught_are_the_very_requests_that_judging_makes[compare]",
        "both orders are taught the wrong response",
    ),
]
