"""The scorers that nightpress has, and classes in the Python files of others."""
