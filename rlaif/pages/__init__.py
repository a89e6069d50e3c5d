"""What every page for a person is made of: `kit.py` (figures, tiles, tables, sentences) and `plots.py`.

A page is one self-contained HTML file. Nothing here knows what is shown; the pages stand beside what they show.
"""
