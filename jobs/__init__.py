"""What runs on a cluster and what a person types: Ray actors, dispatch, the command line."""
