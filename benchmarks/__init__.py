"""Measures vramtap beside its peers on this machine, in one run; nothing here is part of the package."""
