"""Files that people already have, as a canonical dataset."""
