"""The door to processes: workers that can be killed, and the supervised steps of a deploy.

The only spawner of processes. `supervisor.py` is a program of its own (standard library only) that owns one
deploy's process tree. What may not be in here: decisions, git, the store.
"""
