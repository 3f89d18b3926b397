"""Who may say and ask what: certificates, who a caller is, and what the cluster lets him do.

A local run has none of this: its controller listens on 127.0.0.1 alone.
"""
