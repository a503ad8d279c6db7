"""The one process of an instance that leases chunks from the task queue and feeds slots. It never unpickles."""
