"""Human labels beside a judge's: which pairs people should see, and what their labels say of the judge's.

Nobody is asked here. `route.py` chooses the pairs, `annotate/` shows them, `overlap.py` compares what came back.
"""
