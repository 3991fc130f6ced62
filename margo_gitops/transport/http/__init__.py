"""Pull over HTTP: the Margo Workload Management API, or static files in its layout; reports go back the same way."""
