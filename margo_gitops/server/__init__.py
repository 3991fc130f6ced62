"""`margo-gitops serve`: Margo's Workload Management API over HTTP, from the state repo."""
