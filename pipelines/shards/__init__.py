"""One shard from plan to commit: sample, encode, store, record."""
