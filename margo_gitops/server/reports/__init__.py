"""What devices send: capabilities and deployment status.

A report is checked (`reading`), is on disk before it is acknowledged (`journal`; its rows are in a store), and goes to
the reports branch of the state repo in batches (`commits`).
"""
