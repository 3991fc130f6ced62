"""`margo-gitops serve`: Margo's Workload Management API over HTTP, from the state repo.

Rooms, each above the next: `service` (configuration and process), `contracts` (the paths of each contract), `resources`
(what devices read), `reports` (what devices send), `identity` (who calls). The modules here serve all of them.
"""
