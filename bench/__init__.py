"""How fast we are beside others, and beside what the machine can do: `make bench` (docs: README, "How fast")."""
