"""Arms of a study against each other: the statistics that a careful reviewer would ask for, and their pictures.

Pure functions from rows to records: nothing here reads a file, asks a judge or loads a model. Every interval
resamples prompts (`rlaif/stats.py`). docs/comparison.md has each figure's formula, what it assumes and how to read it.

    games -> length, joint, league           who wins, with length held equal, and on one scale
    rows  -> accuracy, frontier, refusals    reward models, reward against KL, harmlessness and over-refusal apart
          -> power, caution                  what could have been seen, what may be said
"""
