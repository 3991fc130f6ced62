"""One client for OCI registries (OCI distribution 1.1): references, manifests, blobs, credentials, signatures.

`references` and `manifests` are pure. `client` reads and `pushing` writes, both over `web`; nothing here decides what a
package is, or keeps anything.
"""
