"""Publish the state as static files, for any web server or bucket: the same bytes as over HTTP.

`publication` decides what is written and removed; `folder` and `bucket` are the targets; `layout` has paths, the
interface of targets, and what is kept how long. `history` and `shards` publish the state repo itself.
"""
