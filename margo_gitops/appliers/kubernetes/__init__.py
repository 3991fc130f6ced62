"""Kubernetes: the applier for manifests, and what other appliers of this package use of a cluster.

`client` asks the API server, `refusals` types what it refuses, `manifests` and `kstatus` are pure, `object_set` applies
the objects of a component and removes them, `applier` keeps the promises of `margo_gitops.appliers.applier`.
"""
