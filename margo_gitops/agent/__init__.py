"""The program on the device: pull a state, trust it, apply it, report.

`agent` puts the parts together, `cycle` is one round. The rooms: `settings` (what the device must do), `memory`
(what it did), `pull` (what it trusts and holds), `apply` (make it run), `report` (tell others), `service` (when).
"""
