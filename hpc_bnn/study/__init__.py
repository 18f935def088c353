"""Studies of an installation and of scaling."""
