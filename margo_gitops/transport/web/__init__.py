"""HTTP as every transport over it uses it: one kept, bounded connection; credentials, TLS and proxies."""
