"""Trackers for the built-in VM only: guest dirty bits and KVM's logs."""
