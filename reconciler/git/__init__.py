"""The door to git: polls, mirrors, objects and checkouts. The only importer of pygit2.

Two halves. In the daemon: `refs` asks servers for refs in one small request, `objects` reads local objects.
In worker processes, which can be killed: `worker` runs `mirror` (fetches) and `checkout`. What may not be in
here: decisions, the store, and the spawning of processes (workers are started by `runner`).
"""
