"""The reward model: training, ensembles, doubtful labels, what it is worth."""
