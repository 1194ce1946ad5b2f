"""The commands of `nightpress`, one module each."""
