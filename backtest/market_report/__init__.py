"""A page about the quality of a dataset: what is missing, stale, absurd or contradicts itself."""
