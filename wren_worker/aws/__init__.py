"""AWS behind the ports: the only place that imports boto3, and only when a client is first needed."""
