"""Public history of venues: pages that are asked for once, kept, and gone on with."""
