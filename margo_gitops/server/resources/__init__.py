"""What devices read: manifest, documents, bundles and freshness over HTTP, the same by git, and the trust bundle.

Each answer comes from one view of the state repo; the renewal of the freshness statement runs at the same time.
"""
