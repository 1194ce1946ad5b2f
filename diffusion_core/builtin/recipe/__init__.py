"""The recipe of the built-in model: data set, captions, training jobs and evaluation."""
