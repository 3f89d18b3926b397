"""One job as processes on this machine."""
