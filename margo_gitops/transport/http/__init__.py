"""Pull over HTTP: the Margo Workload Management API, or static files in its layout. Reports go back the same way.

`http_transport` pulls, `api` speaks with the server, `bundle` reads many deployments at once. `contract` is the current
version of the API; `older_contract` and `signing` are the older one (G1), loaded only where a source asks for it.
"""
