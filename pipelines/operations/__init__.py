"""Jobs that look after a deployment and make no asset."""
