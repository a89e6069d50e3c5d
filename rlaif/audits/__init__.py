"""The judge as an instrument: measured against human labels, probed, calibrated, and approved or not."""

PROBE_PAIRS = 60
"""How many pairs each probe of an audit judges once more, unless told: enough for a share to about 12 points."""

MEASURES: dict[str, str] = {
    "accuracy": "accuracy",
    "kappa": "kappa",
    "lead_over_longer": "baselines.lead_over_longer",
    "consistency": "consistency",
    "coverage": "coverage",
    "repetition": "probes.repetition.same_choice",
    "paraphrase": "probes.paraphrase.same_choice",
    "padding": "probes.padding.same_choice",
    "injection_resistance": "probes.injection.resisted",
}
"""What a gate may name, and where the audit has it. For all of them more is better."""
