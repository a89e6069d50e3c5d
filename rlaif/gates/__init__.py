"""Gates between rounds: what each measures, whether a round is kept, and the page with the whole history."""
