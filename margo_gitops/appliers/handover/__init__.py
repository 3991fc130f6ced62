"""Hand-over: what a plant's own controller gets, and what it says of it.

`flux`, `argocd` and `k3s` build a controller's documents from a workload, and read its status; they are pure, and
`forms` is what they share. `quadlet` makes Podman's units. `formats` names them for the appliers `files` (a folder) and
`handover` (the API server, in `applier`).
"""
