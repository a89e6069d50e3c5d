"""Any engine, opened by the workers of a Ray cluster. Read `model.py` first."""
