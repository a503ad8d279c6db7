"""What breaks the system on purpose, on this machine, and judges what held: proxy, monkey, checker, selftest."""
