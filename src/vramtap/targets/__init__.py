"""Targets: the machines, servers, processes and files whose screens vramtap can tap."""
