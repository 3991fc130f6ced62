"""Who calls: one way of identification each, from a request to a `Caller` or nothing.

Bearer tokens and git's passwords, certificates of clients (mutual TLS, or forwarded by a proxy), and SPIFFE IDs. The
resources never see a header, a token or a certificate.
"""
