"""The operator's programs: read a fleet repo and a state repo, judge a change, and write what devices pull.

`plan` shows what a render changes, `render` writes it, `validate` finds what is wrong, `policies` judges by the fleet's
own rules. Commands call these functions and print what they return.
"""
