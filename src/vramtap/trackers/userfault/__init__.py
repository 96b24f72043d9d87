"""Trackers on userfaultfd and PAGEMAP_SCAN: `log` and `hybrid`."""
