"""The pack: the one format that training reads, written once from foreign files."""
