"""What the device holds and may believe: the trusted state, the trust floor and the proof of freshness, on disk.

What decides whether a state that was fetched is taken belongs here. How it is fetched is `margo_gitops.transport`.
"""
