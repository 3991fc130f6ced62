"""Application packages in OCI registries, as Margo lays them out (application registry).

`layout` makes the exact bytes (pure), `publishing` pushes and signs them, `fetching` reads a package of any supplier.
"""
