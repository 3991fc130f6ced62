"""The content store of a device: large files by digest, fetched from several places, resumed, verified and shared.

`chunks` is pure; `store` owns the disk, `sources` the places, and `fetch` brings one to the other (docs/artifacts.md).
"""
