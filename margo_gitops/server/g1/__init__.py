"""The older contract (G1): client ids in paths, requests signed (RFC 9421), over the resources of the current one."""
