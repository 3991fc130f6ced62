"""Hand-over: what a plant's own controller gets, and what it says of it.

`flux`, `argocd` and `k3s` build a controller's documents from a workload, and read its status. `quadlet` makes units
for Podman. All of them are pure. `formats` names them, and `files` writes what they build.
"""
