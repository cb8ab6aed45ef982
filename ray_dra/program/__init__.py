"""What runs inside a user's program: the connection, and the handle to a gang."""
