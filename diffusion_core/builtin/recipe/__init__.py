"""How the built-in model is made: its data set, captions, training jobs and evaluation."""
