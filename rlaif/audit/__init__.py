"""The judge as an instrument: measured against human labels, probed, calibrated, and approved or not."""

PROBE_PAIRS = 60
"""How many pairs each probe of an audit judges once more, unless told: enough for a share to about 12 points."""
