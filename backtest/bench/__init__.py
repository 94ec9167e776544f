"""The speed of the margin engine beside its peers, measured and checked in one run."""
