"""What stands between a detector and those who ask it: the store it is kept in, what goes over the wire, the services."""
