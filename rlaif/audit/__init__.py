"""The judge as an instrument: measured against human labels, probed, calibrated, and approved or not."""
