"""The page of a run: what it reached and what it cost, in words, plots and tables."""
