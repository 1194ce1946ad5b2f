"""The data flow: manifest, plan, shard, batch, encode, store, commit, report.

Runs whole in one process, with no cluster. Knows nothing of Ray or the command line.
"""
