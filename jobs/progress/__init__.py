"""Events of a run, their tallies, and how a person sees them."""
