"""The guest that comes with the package: `guest.elf`, compiled when the package is built."""
