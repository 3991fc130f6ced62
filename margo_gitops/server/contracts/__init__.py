"""The contracts that devices speak: which paths there are, and how a caller proves who it is there.

`older` is the contract of signed requests (G1), with its onboarding, its registry of client ids and its signatures.
"""
