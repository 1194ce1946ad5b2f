"""Ray actors, the queue of shards, and which actor gets which shard."""
